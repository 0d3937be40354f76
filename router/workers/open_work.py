"""Work that a router waits for at one worker."""

import time
from dataclasses import dataclass, replace

from common.messages import SequenceOutput, WorkFailure, WorkRequest
from pdserve.errors import Reason
from router.workers.unread import SLOW_CLIENT
from router.workers.work_stream import WorkStream

_STOPPED_WITHIN_S = 1.0


@dataclass(eq=False, slots=True)
class Open:
    """A request at the worker: its stream, and the first token that the router lacks.

    `unheard` is the request until its first output: the worker may not have got it.
    """

    stream: WorkStream
    unheard: WorkRequest | None
    next_index: int = 0


class OpenWork:
    """Owns the streams of one worker's requests, in the order in which they were submitted."""

    def __init__(self) -> None:
        self._open: dict[str, Open] = {}
        self._ended: list[str] = []
        self._orphaned_s = (
            -_STOPPED_WITHIN_S
        )  # when a prompt was stopped whose prefill worker is lost

    def __len__(self) -> int:
        return len(self._open)

    def add(self, request: WorkRequest, stream: WorkStream) -> None:
        """Hand outputs of the request out to the stream, from now on."""
        self._open[request.request_id] = Open(stream, request)

    def remove(self, stream: WorkStream) -> bool:
        """Forget a stream; return False if it is not there."""
        if stream.has_lost_prefill:
            self._orphaned_s = time.monotonic()
        return self._open.pop(stream.request_id, None) is not None

    def hand_out(self, output: SequenceOutput) -> WorkStream | None:
        """Put an output into its stream. Each token comes by here, so it does little.

        Return the stream if it ends because its client reads too slowly: its work must be stopped.
        """
        work = self._open.get(output.request_id)
        if work is None:
            return None
        work.unheard, work.next_index = None, output.index + len(output.token_ids)
        if output.finish_reason or output.failure:
            del self._open[output.request_id]
            self._ended.append(output.request_id)
            work.stream.put(output)
            return None
        work.stream.put(output)
        if not work.stream.is_full:
            return None
        work.stream.fail(WorkFailure(Reason.SLOW_CONSUMER, SLOW_CLIENT))
        return work.stream

    def take_ended(self) -> list[str]:
        """Take the ids of requests whose end has come since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def present(self) -> list[Open]:
        """Return all that is open, in order."""
        return [*self._open.values()]

    def fail(self, failure: WorkFailure) -> list[str]:
        """End all streams with a failure; return their requests' ids.

        Those on probation are blamed for a death, if there are any, or one that has just left.
        """
        failed, self._open, self._ended = self._open, {}, []
        streams = [work.stream for work in failed.values()]
        has_orphan = time.monotonic() - self._orphaned_s < _STOPPED_WITHIN_S or any(
            stream.has_lost_prefill for stream in streams
        )
        is_blamed = any(stream.is_on_probation for stream in streams)
        for stream in streams:
            is_elsewhere = has_orphan or (is_blamed and not stream.is_on_probation)
            stream.fail(replace(failure, is_blamed_elsewhere=is_elsewhere))
        return [*failed]
