"""Tests of the work that a router waits for at one worker."""

from common.messages import (
    FinishReason,
    SamplingParams,
    SequenceOutput,
    WorkFailure,
    WorkRequest,
)
from pdserve.errors import Reason
from router.workers.open_work import OpenWork
from router.workers.work_stream import WorkStream

CUT = WorkFailure(Reason.WORKER_LOST, "its connection was lost")


def opened(*names: str, max_unread_tokens: int = 100) -> tuple[OpenWork, list[WorkStream]]:
    work, streams = OpenWork(), [WorkStream(name, max_unread_tokens) for name in names]
    for stream in streams:
        request = WorkRequest(stream.request_id, 1, (1, 2), SamplingParams(0.0, 0, 100))
        work.add(request, stream)
    return work, streams


def test_a_request_is_unheard_until_its_first_output_and_lacks_the_token_behind_the_last() -> None:
    work, _ = opened("a", "b")
    work.hand_out(SequenceOutput("a", 3, (7, 8)))
    assert [(one.unheard is None, one.next_index) for one in work.present()] == [
        (True, 5),
        (False, 0),
    ]


def test_an_end_is_told_once_and_never_to_the_worker_s_next_connection_after_a_loss() -> None:
    work, _ = opened("a", "b", "c")
    work.hand_out(SequenceOutput("a", 0, (7,), FinishReason.STOP))
    assert (work.take_ended(), work.take_ended()) == (["a"], [])
    work.hand_out(SequenceOutput("b", 0, (7,), FinishReason.STOP))
    assert work.fail(CUT) == ["c"]
    assert (work.take_ended(), len(work)) == ([], 0)


async def test_a_loss_ends_the_streams_behind_what_has_come() -> None:
    work, (stream,) = opened("a")
    work.hand_out(SequenceOutput("a", 0, (7,)))
    work.fail(CUT)
    assert [(await stream.next()).token_ids, (await stream.next()).failure] == [(7,), CUT]


def test_the_stream_of_a_slow_client_is_handed_back() -> None:
    work, (stream,) = opened("a", max_unread_tokens=2)
    assert work.hand_out(SequenceOutput("a", 0, (7, 8))) is None
    assert work.hand_out(SequenceOutput("a", 2, (9,))) is stream
    assert work.remove(stream)
    assert not work.remove(stream)
