from router.routing.prompt_order import Rank
from router.workers.sent_prompts import SentPrompts


def test_a_prompt_overtakes_the_longer_ones_and_those_of_less_urgency() -> None:
    sent = SentPrompts()
    for num_tokens, priority in ((2000, 0), (128, 0), (128, 1), (5000, -1)):
        sent.add("p", num_tokens, Rank(priority, num_tokens / 100))
    assert sent.num_tokens("p") == 7256
    assert sent.tokens_overtaken("p", Rank(0, 1.27)) == [128, 2000, 128]
    assert sent.tokens_overtaken("p", Rank(0, 1.28)) == [2000, 128]
    assert sent.tokens_overtaken("p", Rank(0, 30.0)) == [128]
    assert sum(sent.tokens_overtaken("p", Rank(-1, 0.01))) == 7256
    assert sent.ahead("p", Rank(0, 1.28)) == (2, 5128)
    assert sent.tokens_overtaken("q", Rank(0)) == []
    assert sent.ahead("q", Rank(0)) == sent.totals("q") == (0, 0)


def test_a_prompt_counts_until_it_is_discarded_once_or_more() -> None:
    sent = SentPrompts()
    first, second = (sent.add("p", 10, Rank(0)) for _ in range(2))
    sent.discard(first)
    sent.discard(first)
    assert sent.num_tokens("p") == 10
    sent.discard(second)
    assert sent.num_tokens("p") == 0


def test_a_prompt_without_a_token_to_run_does_not_count() -> None:
    sent = SentPrompts()
    nothing = sent.add("p", 0, Rank(0))
    assert sent.totals("p") == (0, 0)
    sent.discard(nothing)
    assert sent.totals("p") == (0, 0)
