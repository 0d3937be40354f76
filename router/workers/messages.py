"""Messages from the router to a worker."""

from collections.abc import Iterable, Sequence

from common.ledger import BlockQuestion
from common.messages import WorkRequest
from common.rpc.convert import request_to_pb
from pdserve.v1 import worker_pb2
from router.workers.open_work import Open

Message = worker_pb2.ConnectRequest


def attach(router_id: str, stream_number: int, wanted: Iterable[Open]) -> Message:
    """Return the first message of a stream."""
    works = [
        worker_pb2.WantedWork(
            request_id=work.stream.request_id,
            next_index=work.next_index,
            is_resubmitted=work.unheard is not None,
        )
        for work in wanted
    ]
    message = worker_pb2.Attach(router_id=router_id, stream_number=stream_number, wanted=works)
    return Message(attach=message)


def leave() -> Message:
    """Return the last message of a router that goes for good."""
    return Message(leave=worker_pb2.Leave())


def submit(request: WorkRequest) -> Message:
    """Return the message that starts a request."""
    return Message(submit=request_to_pb(request))


def cancel(request_id: str) -> Message:
    """Return the message that stops a request."""
    return Message(cancel=worker_pb2.CancelWork(request_id=request_id))


def received_ends(request_ids: Sequence[str]) -> Message:
    """Return the message after which the worker need not keep these requests' outputs."""
    return Message(received_ends=worker_pb2.ReceivedEnds(request_ids=request_ids))


def resync() -> Message:
    """Return the message that asks for all prefixes anew."""
    return Message(resync=worker_pb2.ResyncPrefixes())


def query(number: int, question: BlockQuestion) -> Message:
    """Return the question who holds the worker's blocks."""
    return Message(
        query=worker_pb2.QueryBlocks(
            query_id=number, request_id=question.request_id, check=question.is_check
        )
    )


def set_draining(is_draining: bool) -> Message:
    """Return the message that asks the worker to drain, or not to."""
    return Message(set_draining=worker_pb2.SetDraining(is_draining=is_draining))
