"""Outputs kept for a router that comes back: what it lacks, once and in order."""

from common.messages import FinishReason, SequenceOutput, TokenLogprobs, WorkFailure
from common.rpc.kept_outputs import KeptOutputs
from common.timings import WorkTimings
from pdserve.errors import Reason

NUM_TOKENS = 600  # more than two parts


def kept(*outputs: SequenceOutput) -> KeptOutputs:
    found = KeptOutputs("r", attempt=1)
    for output in outputs:
        found.add(output)
    return found


def tokens(first: int, num_tokens: int) -> list[SequenceOutput]:
    return [
        SequenceOutput("r", index, (1000 + index,), logprobs=(TokenLogprobs(-index),))
        for index in range(first, first + num_tokens)
    ]


def test_parts_follow_each_other_from_any_index() -> None:
    found = kept(*tokens(0, NUM_TOKENS))
    for index in (0, 1, 255, 256, 257, NUM_TOKENS - 1, NUM_TOKENS):
        reached = index
        for part in found.since(index):
            assert part.index == reached
            assert len(part.token_ids) <= 256
            reached += len(part.token_ids)
            places = range(part.index, reached)
            assert part.token_ids == tuple(1000 + place for place in places)
            assert part.logprobs == tuple(TokenLogprobs(-place) for place in places)
            assert (part.finish_reason, part.failure, part.timings) == (None, None, None)
        assert reached == NUM_TOKENS


def test_the_end_comes_with_the_last_tokens_or_alone() -> None:
    timings = WorkTimings(0.5)
    last = SequenceOutput("r", 3, (1003,), FinishReason.STOP, timings=timings)
    found = kept(*tokens(0, 3), last)
    assert found.has_ended
    (part,) = found.since(1)
    assert part.token_ids == (1001, 1002, 1003)
    assert (part.finish_reason, part.timings) == (FinishReason.STOP, timings)
    assert [*found.since(4)] == [SequenceOutput("r", 4, (), FinishReason.STOP, None, timings)]


def test_a_failure_comes_behind_the_tokens() -> None:
    failure = WorkFailure(Reason.NAN_LOGITS, "broken")
    found = kept(*tokens(0, 2), SequenceOutput("r", 2, failure=failure))
    assert [(part.token_ids, part.failure) for part in found.since(0)] == [
        ((1000, 1001), None),
        ((), failure),
    ]
    alone = kept(SequenceOutput("r", 0, failure=failure))
    assert [*alone.since(0)] == [SequenceOutput("r", 0, failure=failure)]


def test_a_prompt_s_logprobs_come_with_token_0_alone() -> None:
    scores = (TokenLogprobs(-0.5), TokenLogprobs(-1.5))
    first = SequenceOutput("r", 0, (1000,), prompt_logprobs=scores)
    found = kept(first, *tokens(1, 3))
    parts = [(part.token_ids, part.prompt_logprobs) for part in found.since(0)]
    assert parts == [((1000,), scores), ((1001, 1002, 1003), ())]
    assert [part.prompt_logprobs for part in found.since(1)] == [()]


def test_an_output_may_begin_behind_that_of_another_worker() -> None:
    found = kept(*tokens(40, 3))
    assert [(part.index, part.token_ids) for part in found.since(0)] == [(40, (1040, 1041, 1042))]
    assert [(part.index, part.token_ids) for part in found.since(42)] == [(42, (1042,))]
    assert [*found.since(43)] == []


def test_nothing_has_come_yet() -> None:
    assert not kept().has_ended
    assert [*kept().since(0)] == []


def test_timings_of_token_2_come_again_with_what_follows() -> None:
    timings = WorkTimings(0.25)
    found = kept(*tokens(0, 1), SequenceOutput("r", 1, (1001,), timings=timings), *tokens(2, 1))
    assert [part.timings for part in found.since(1)] == [timings]
    assert not found.has_ended
