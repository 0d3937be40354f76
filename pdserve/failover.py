"""Rules of a client with several routers, and of one whose stream breaks. No input or output here."""

import time
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from pdserve.building import check_text
from pdserve.errors import InvalidRequestError, Reason, RequestError, UnavailableError
from pdserve.v1 import inference_pb2

RESUME_WITHIN_S = 10.0  # router.resume_grace_s, unless it was changed
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_LEAST_S = 0.001  # gRPC takes no deadline that has passed
R = TypeVar("R")


def split_addresses(address: str | Sequence[str]) -> list[str]:
    """Return the addresses of a list, or of a text with commas. Raises InvalidRequestError."""
    parts: Sequence[object] = address if isinstance(address, list | tuple) else [address]
    for part in parts:
        check_text("address", part)
    found = [one.strip() for part in parts for one in str(part).split(",")]
    if not found or not all(found):
        message = f"'{address}' names no router; give host:port, several with commas"
        raise InvalidRequestError(message, field="address")
    return found


def can_go_elsewhere(error: RequestError) -> bool:
    """Return True if another router may take a call of whose answer nothing has come."""
    return isinstance(error, UnavailableError) and error.reason in (
        Reason.ROUTER_UNREACHABLE,
        Reason.SHUTTING_DOWN,
    )


class Routers(Generic[R]):
    """Routers of a client. Calls go to the present one, and to the next when that fails them."""

    def __init__(self, members: Sequence[R]) -> None:
        self.members = members
        self._present = 0

    @property
    def present(self) -> R:
        """The router that calls go to."""
        return self.members[self._present]

    def in_turn(self) -> Iterator[R]:
        """Yield each router once, the present one first; each that is yielded becomes the present."""
        first = self._present
        for number in range(len(self.members)):
            self._present = (first + number) % len(self.members)
            yield self.present


class Deadline:
    """End of a call's time; `timeout_s` None stands for no end."""

    def __init__(self, timeout_s: float | None) -> None:
        self._at_s = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, a little above 0 after it."""
        if self._at_s is None:
            return None
        return max(self._at_s - time.monotonic(), _LEAST_S)


class Resumption:
    """A request that is read on when its stream breaks, if it is resumable.

    `request` is the message to send, the next time too.
    """

    def __init__(self, request: inference_pb2.GenerateRequest, *, is_on: bool) -> None:
        self.request = request
        self._can_resume = is_on and (request.resumable or request.HasField("resume_from"))
        self._next = request.resume_from
        self._has_begun = False
        self._break: RequestError | None = None  # since the last message
        self._broken_s = 0.0
        self._num_tries = 0

    def note(self, response: inference_pb2.GenerateResponse) -> None:
        """Note a message that has come."""
        self._next = response.sequence + 1
        self._has_begun, self._break, self._num_tries = True, None, 0

    def pause_s(self, error: RequestError) -> float:
        """Return the seconds after which to send `request`. Raises the error that ends the request.

        That is the break itself where the router has forgotten the request meanwhile.
        """
        if not (self._can_resume and self._has_begun):
            raise error
        is_broken = error.reason is Reason.ROUTER_UNREACHABLE
        if self._break is None:
            self._break, self._broken_s = error, time.monotonic()
        is_forgotten = error.reason is Reason.REQUEST_NOT_FOUND
        is_too_late = time.monotonic() - self._broken_s > RESUME_WITHIN_S
        if not is_broken or is_too_late:
            raise self._break if is_forgotten or is_broken else error
        self.request = inference_pb2.GenerateRequest(
            request_id=self.request.request_id, resume_from=self._next
        )
        pause_s = _PAUSES_S[min(self._num_tries, len(_PAUSES_S) - 1)]
        self._num_tries += 1
        return pause_s
