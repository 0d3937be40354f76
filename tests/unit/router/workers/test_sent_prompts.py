from router.workers.sent_prompts import Assigned


def test_a_prompt_overtakes_the_longer_ones_and_those_of_less_urgency() -> None:
    assigned = Assigned()
    for num_tokens, priority in ((2000, 0), (128, 0), (128, 1), (5000, -1)):
        assigned.add("p", num_tokens, priority)
    assert assigned.total("p") == 7256
    assert assigned.behind("p", 127, priority=0) == 2000 + 128 + 128
    assert assigned.behind("p", 128, priority=0) == 2000 + 128
    assert assigned.behind("p", 3000, priority=0) == 128
    assert assigned.behind("p", 1, priority=-1) == 7256
    assert assigned.behind("q", 1, priority=0) == assigned.total("q") == 0


def test_a_prompt_counts_until_it_is_discarded_once_or_more() -> None:
    assigned = Assigned()
    first, second = assigned.add("p", 10, 0), assigned.add("p", 10, 0)
    assigned.discard(first)
    assigned.discard(first)
    assert assigned.total("p") == 10
    assigned.discard(second)
    assert assigned.total("p") == 0
