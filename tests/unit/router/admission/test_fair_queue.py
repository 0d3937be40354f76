import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.admission.fair_queue import FairQueue
from router.routing.prompt_order import Rank

FIRST = Rank(0)


def equal(_tenant: str) -> float:
    return 1.0


def drain(queue: FairQueue[str]) -> list[str]:
    order = []
    while (popped := queue.pop()) is not None:
        order.append(popped[0])
    return order


def test_one_tenant_is_served_by_urgency_and_then_as_they_came() -> None:
    queue = FairQueue[str](equal)
    for item, priority in (("a", 0), ("b", 0), ("c", -1), ("d", 1)):
        queue.push("t", item, 10, Rank(priority))
    assert drain(queue) == ["c", "a", "b", "d"]
    assert (len(queue), queue.num_tokens, queue.pop()) == (0, 0, None)


def test_a_tenant_with_many_does_not_keep_one_with_few_waiting() -> None:
    """A quantum is 512 tokens, so that each takes two of 256 in its turn."""
    queue = FairQueue[str](equal)
    for number in range(100):
        queue.push("flood", f"f{number}", 256, FIRST)
    queue.push("few", "x", 256, FIRST)
    queue.push("few", "y", 256, FIRST)
    order = drain(queue)
    assert {"x", "y"} <= set(order[:4])
    assert [item for item in order if item[0] == "f"] == [f"f{number}" for number in range(100)]


def test_tokens_count_and_not_requests() -> None:
    queue = FairQueue[str](equal)
    for number in range(4):
        queue.push("long", f"l{number}", 1024, FIRST)
    for number in range(16):
        queue.push("short", f"s{number}", 128, FIRST)
    order = drain(queue)
    # while one long prompt runs, eight short ones do
    assert len([item for item in order[: order.index("l2")] if item[0] == "s"]) >= 8


@pytest.mark.parametrize(("weight", "num_first"), [(3.0, 6), (1.0, 4), (0.5, 3)])
def test_a_weight_is_a_share(weight: float, num_first: int) -> None:
    queue = FairQueue[str](lambda tenant: weight if tenant == "a" else 1.0)
    for number in range(40):
        queue.push("a", f"a{number}", 512, FIRST)
        queue.push("b", f"b{number}", 512, FIRST)
    first = [item for item in drain(queue)[:8] if item[0] == "a"]
    assert abs(len(first) - num_first) <= 1


def test_what_left_the_queue_comes_no_more() -> None:
    queue = FairQueue[str](equal)
    items = ["a", "b", "c"]
    for item in items:
        queue.push("t", item, 100, FIRST)
    queue.remove("t", items[1], 100, FIRST)
    queue.remove("t", items[1], 100, FIRST)
    queue.remove("nobody", items[0], 100, FIRST)
    assert queue.num_tokens == 200
    assert drain(queue) == ["a", "c"]


def test_who_comes_waits_for_as_much_of_others_as_of_its_own() -> None:
    queue = FairQueue[str](equal)
    queue.push("flood", "f", 100_000, FIRST)
    queue.push("some", "s", 300, FIRST)
    assert queue.ahead("new", FIRST) == (2, 512 + 300)
    assert queue.ahead("some", FIRST) == (2, 512 + 300)
    assert queue.ahead("flood", FIRST) == (2, 100_300)


def test_within_a_tenant_only_lower_ranks_go_before() -> None:
    queue = FairQueue[str](equal)
    for number, (num_tokens, due_s) in enumerate(((2600, 6.0), (30, 0.1), (700, 1.5))):
        queue.push("t", f"{number}", num_tokens, Rank(0, due_s))
    assert queue.ahead("t", Rank(0, 0.1)) == (1, 30)
    assert queue.ahead("t", Rank(0, 2.0)) == (2, 730)
    assert queue.ahead("t", Rank(-1, 9.0)) == (0, 0)
    # another tenant takes turns with as much as goes before of one's own, a quantum at least
    queue.push("u", "u", 1000, FIRST)
    assert queue.ahead("t", Rank(0, 2.0)) == (3, 730 + 730)
    assert queue.ahead("t", Rank(-1, 9.0)) == (1, 512)
    assert [item for item in drain(queue) if item != "u"] == ["1", "2", "0"]


@pytest.mark.parametrize(("weight", "num_tokens"), [(1.0, 1000), (4.0, 4000), (0.5, 500)])
def test_others_take_their_turns_by_weight(weight: float, num_tokens: int) -> None:
    queue = FairQueue[str](lambda tenant: weight if tenant == "other" else 1.0)
    for number in range(50):
        queue.push("other", f"o{number}", 100, FIRST)
    queue.push("own", "a", 1000, FIRST)
    assert queue.ahead("own", FIRST) == (1 + num_tokens // 100, 1000 + num_tokens)


def test_a_long_item_is_overtaken_for_no_longer_than_it_takes_itself() -> None:
    """Short ones of 0.1 s come two a second, and one goes."""
    queue = FairQueue[str](equal)
    queue.push("t", "long", 2600, Rank(0, 6.0))
    order = []
    for now_s in range(20):
        for number in range(2):
            queue.push("t", f"{now_s}.{number}", 30, Rank(0, now_s + 0.1))
        popped = queue.pop()
        assert popped is not None
        order.append(popped[0])
    # before it those go that came in its 6 s, two each second
    assert order.index("long") == 12
    assert order[11:14] == ["5.1", "long", "6.0"]


def test_who_may_not_go_yet_lets_others_pass_and_is_next_when_it_may() -> None:
    queue = FairQueue[str](equal)
    queue.push("long", "l", 5000, FIRST)
    for number in range(40):
        queue.push("short", f"s{number}", 500, FIRST)
    passing = [queue.pop(lambda item: item != "l") for _ in range(30)]
    assert passing == [(f"s{number}", 500) for number in range(30)]
    # it has saved up its turn, and no more
    assert (queue.pop(), queue.pop()) in ((("l", 5000), ("s30", 500)), (("s30", 500), ("l", 5000)))
    queue.push("long", "m", 5000, FIRST)
    assert drain(queue)[:9] == [f"s{number}" for number in range(31, 40)]
    assert queue.pop() is None


def test_nobody_goes_while_nobody_may() -> None:
    queue = FairQueue[str](equal)
    assert queue.pop(lambda _: False) is None
    queue.push("t", "a", 10, FIRST)
    assert queue.pop(lambda _: False) is None
    assert drain(queue) == ["a"]


pushes = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 3000), st.integers(-2, 2)), max_size=60
)


@settings(deadline=None, derandomize=True)
@given(pushes)
def test_all_come_out_once_and_no_waiting_tenant_falls_behind(
    pushed: list[tuple[str, int, int]],
) -> None:
    queue = FairQueue[int](equal)
    for number, (tenant, num_tokens, priority) in enumerate(pushed):
        queue.push(tenant, number, num_tokens, Rank(priority))
    left = {tenant: sum(n for t, n, _ in pushed if t == tenant) for tenant in "abc"}
    taken, seen = dict.fromkeys("abc", 0), set[int]()
    while (popped := queue.pop()) is not None:
        item, num_tokens = popped
        tenant = pushed[item][0]
        seen.add(item)
        taken[tenant] += num_tokens
        left[tenant] -= num_tokens
        waiting = [taken[t] for t in "abc" if left[t]]
        # the algorithm's bound: a largest item and a quantum for each of the two
        assert not waiting or max(waiting) - min(waiting) <= 2 * (3000 + 512)
    assert seen == set(range(len(pushed)))


def test_rounds_in_which_nobody_can_take_anything_cost_no_time() -> None:
    """Turn by turn these would be a thousand million rounds."""
    queue = FairQueue[str](lambda tenant: {"a": 2e-8, "b": 1e-8}[tenant])
    for number in range(3):
        queue.push("a", f"a{number}", 10_000, FIRST)
        queue.push("b", f"b{number}", 10_000, FIRST)
    order = drain(queue)
    assert order[0] == "a0"
    assert set(order[:3]) == {"a0", "a1", "b0"}
    assert len(order) == 6
