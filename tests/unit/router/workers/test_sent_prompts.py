from router.workers.sent_prompts import SentPrompts


def test_a_prompt_overtakes_the_longer_ones_and_those_of_less_urgency() -> None:
    sent = SentPrompts()
    for num_tokens, priority in ((2000, 0), (128, 0), (128, 1), (5000, -1)):
        sent.add("p", num_tokens, priority)
    assert sent.num_tokens("p") == 7256
    assert sent.num_overtaken_tokens("p", 127, priority=0) == 2000 + 128 + 128
    assert sent.num_overtaken_tokens("p", 128, priority=0) == 2000 + 128
    assert sent.num_overtaken_tokens("p", 3000, priority=0) == 128
    assert sent.num_overtaken_tokens("p", 1, priority=-1) == 7256
    assert sent.num_overtaken_tokens("q", 1, priority=0) == sent.num_tokens("q") == 0


def test_a_prompt_counts_until_it_is_discarded_once_or_more() -> None:
    sent = SentPrompts()
    first, second = sent.add("p", 10, 0), sent.add("p", 10, 0)
    sent.discard(first)
    sent.discard(first)
    assert sent.num_tokens("p") == 10
    sent.discard(second)
    assert sent.num_tokens("p") == 0
