import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.routing.prompt_order import FIRST_COME, Entrant, PromptOrder, Rank

# arrival, priority, seconds alone, tokens; all of them wait when the new one comes
LONG = (0.0, 0, 6.0, 2600)
SHORT = (0.0, 0, 0.1, 30)
FIRST_COME_LONG = (FIRST_COME, 0, 0.0, 2600)


@pytest.mark.parametrize(
    ("waiting", "new", "ahead"),
    [
        ([LONG] * 3, (1.0, 0, 0.1), (0, 0)),  # short after long
        ([SHORT] * 3, (0.0, 0, 6.0), (3, 90)),  # long after short
        ([LONG, SHORT], (0.0, 0, 1.0), (1, 30)),  # between both
        ([LONG] * 2, (0.0, 0, 6.0), (2, 5200)),  # alike: as they came
        ([LONG], (5.8, 0, 0.1), (0, 0)),  # long, not aged yet
        (
            [LONG],
            (5.9, 0, 0.1),
            (1, 2600),
        ),  # aged: waits as long as it runs, less the new one's time
        ([LONG] * 2, (9.0, -1, 9.0), (0, 0)),  # urgent, whatever their lengths and ages
        ([LONG, SHORT], (9.0, 1, 0.1), (2, 2630)),  # of less urgency
        (
            [FIRST_COME_LONG] * 3,
            (0.0, 0, 0.1),
            (3, 7800),
        ),  # on a decode worker nothing is overtaken
        ([FIRST_COME_LONG] * 3, (0.0, -1, 0.1), (0, 0)),  # but by urgency
    ],
)
def test_what_runs_before_a_new_prompt(
    waiting: list[tuple[float, int, float, int]],
    new: tuple[float, int, float],
    ahead: tuple[int, int],
) -> None:
    order = PromptOrder[int]()
    for number, (from_s, priority, run_s, num_tokens) in enumerate(waiting):
        order.add(Rank(priority, from_s + run_s), num_tokens, number)
    now_s, priority, run_s = new
    rank = Entrant(priority, run_s).rank(now_s)
    assert order.ahead(rank) == ahead
    num_overtaken = len(waiting) - ahead[0]
    behind = order.tokens_behind(rank)
    assert (len(behind), sum(behind)) == (num_overtaken, order.num_tokens - ahead[1])


prompts = st.lists(
    st.tuples(st.integers(-2, 2), st.sampled_from((0.0, 1.0, 2.5)), st.integers(1, 3000)),
    max_size=40,
)


@settings(deadline=None, derandomize=True)
@given(prompts, st.data())
def test_it_is_what_sorting_says_whatever_comes_and_goes(
    added: list[tuple[int, float, int]], data: st.DataObject
) -> None:
    order, left = PromptOrder[object](), list[tuple[Rank, int, object]]()
    for priority, due_s, num_tokens in added:
        rank, item = Rank(priority, due_s), object()
        order.add(rank, num_tokens, item)
        left.append((rank, num_tokens, item))
    for entry in data.draw(st.lists(st.sampled_from(left), unique_by=id)) if left else []:
        assert order.remove(entry[0], entry[2])
        assert not order.remove(entry[0], entry[2])
        left.remove(entry)
    left.sort(key=lambda entry: entry[0])
    for rank in (Rank(0, 1.0), Rank(-3), Rank(3)):
        ahead = [entry for entry in left if entry[0] <= rank]
        assert order.ahead(rank) == (len(ahead), sum(entry[1] for entry in ahead))
    assert order.num_tokens == sum(entry[1] for entry in left)
    for entry in left:
        assert order.first == (entry[2], entry[1])
        order.pop_first()
    assert (len(order), order.num_tokens) == (0, 0)
