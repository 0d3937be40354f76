from common.messages import SamplingParams, SequenceOutput, WorkFailure, WorkRequest
from pdserve.errors import Reason
from router.workers.link import WorkerLink
from router.workers.work_stream import WorkStream


async def test_a_cancel_reaches_the_worker_before_what_is_unread_is_read() -> None:
    link = WorkerLink("nowhere", lambda _: None, "me")
    link.is_connected = True
    stream = WorkStream("me/0/r", max_unread_tokens=100)
    work = WorkRequest("me/0/r", 1, (1,), SamplingParams(0.0, 0, 5), None)
    link.submit(work, stream)
    stream.put(SequenceOutput("me/0/r", 0, (7,)))
    stream.end(WorkFailure(Reason.CANCELLED, "cancelled"))
    link.release(stream)  # as at the end of every request
    outgoing = link._conversation._outgoing
    sent = [outgoing.get_nowait() for _ in range(outgoing.qsize())]
    assert [message.WhichOneof("message") for message in sent if message] == ["submit", "cancel"]
    assert link.num_live == 0
    assert (await stream.next()).token_ids == (7,)
    failure = (await stream.next()).failure
    assert failure
    assert failure.reason is Reason.CANCELLED
