"""Rules of a client with several routers, and of one whose stream breaks. No input or output here."""

import time
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from pdserve.building import check_text
from pdserve.errors import (
    InvalidRequestError,
    OverloadedError,
    Reason,
    RequestError,
    UnavailableError,
)
from pdserve.received import OutputSoFar
from pdserve.v1 import inference_pb2

# Metadata of a request that is sent again, word for word: one that ended is then read, not begun anew.
# gRPC takes its own "grpc-previous-rpc-attempts" away from what a caller sends.
SENT_AGAIN = "pdserve-sent-again"
RESUME_WITHIN_S = 10.0  # router.resume_grace_s, unless it was changed
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_LEAST_S = 0.001  # gRPC takes no deadline that has passed
_FORGOTTEN = (Reason.REQUEST_NOT_FOUND, Reason.NOT_RESUMABLE)
_FULL = (Reason.QUEUE_FULL, Reason.TENANT_LIMIT)
# gRPC's words for a call that was never sent; it has no status of its own for that
_NOT_CONNECTED = ("failed to connect", "dns resolution failed")
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


def is_broken(error: RequestError) -> bool:
    """Return True if the connection of a call broke, so that the router may have the request."""
    text = error.message.lower()
    is_sent = not any(words in text for words in _NOT_CONNECTED)
    return is_sent and error.reason is Reason.ROUTER_UNREACHABLE


class Routers(Generic[R]):
    """Routers of a client. Calls go to the present one, and to the next when that fails them."""

    def __init__(self, members: Sequence[R]) -> None:
        self.members = members
        self.has_answered = False  # one of them, since the client was made
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

    def after(self, failed: R) -> R:
        """Return the router to go to from one that failed: the present one, or the next to that."""
        if self.present is failed:
            self._present = (self._present + 1) % len(self.members)
        return self.present


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


class Resumption(Generic[R]):
    """An answer on its way: the message to send, and the router to send it to, when a call fails.

    1. As long as nothing has come, each router gets the request once.
    2. A resumable request that may have reached one of them is then sent again in turn
       (`SENT_AGAIN`). A router that has the very same one reads it, and any other begins it. Its id
       alone is not asked for: that may be another request's, which ended before. An answer that is
       read again (`resume`) is asked for in turn, until every router has said that it is not there.
    3. A resumable answer whose stream breaks is read on at the same router (`resume_from`).
    4. If that is gone, shuts down, or has forgotten it, a router gets the request with the output so
       far (`received`).

    Routers are tried in turn for RESUME_WITHIN_S seconds since the break.
    """

    def __init__(
        self, request: inference_pb2.GenerateRequest, routers: Routers[R], *, is_on: bool
    ) -> None:
        self.request = request
        self.router = routers.present
        self._routers = routers
        is_reread = request.HasField("resume_from")
        self._can_resume = is_on and (request.resumable or is_reread)
        self._output = OutputSoFar(request) if self._can_resume and not is_reread else None
        self._request_id = request.request_id
        self._next = request.resume_from
        self._has_begun = False
        self._is_sent_again = False
        self._without: set[R] = set()  # routers that do not have the answer to read again
        self._holder: R | None = None  # the router that has the messages to come
        self._break: RequestError | None = None  # since the last message
        self._broken_s = 0.0
        self._num_tries = 0

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata that `request` goes with, besides the caller's credentials."""
        return ((SENT_AGAIN, "1"),) if self._is_sent_again else ()

    def note(self, response: inference_pb2.GenerateResponse) -> None:
        """Note a message that has come. Raises InternalError if it does not follow the one before."""
        if self._output is not None:
            self._output.add(response)
        self._request_id = response.request_id or self._request_id
        self._next = response.sequence + 1
        self._holder = self.router
        self._routers.has_answered = True
        self._has_begun, self._break, self._num_tries = True, None, 0
        self._is_sent_again = False

    def recover(self, error: RequestError) -> float | None:
        """Return the seconds after which to send `request` to `router`; None if the answer is whole.

        Raises the error that ends the request. That is the break itself where no router went on.
        """
        if not self._has_begun:
            return self._begin_again(error)
        if not self._can_resume:
            raise error
        if self._output is not None and self._output.is_whole:
            return None
        begun = self._note_break(error)
        rest = self._output.ask_for_rest() if self._output is not None else None
        self._check(error, begun, can_go_on=rest is not None)
        self._turn(error, rest)
        return self._next_try(error, begun)

    def _begin_again(self, error: RequestError) -> float:
        """Return the seconds to wait, as `recover` does, where nothing of the answer has come."""
        if self._is_sent_again and error.reason is Reason.NOT_RESUMABLE:
            self._is_sent_again = False
            return 0.0  # the router no longer has the first messages, and begins it anew
        if self._break is not None and self._output is None and error.reason in _FORGOTTEN:
            return self._ask_another(error, self._break)
        if not can_go_elsewhere(error):
            raise error
        is_lost = error.reason is Reason.ROUTER_UNREACHABLE and self._routers.has_answered
        if is_lost or is_broken(error):
            self._note_break(error)
        self._is_sent_again = self._break is not None and self._output is not None
        if self._num_tries + 1 < len(self._routers.members):
            self._num_tries += 1
            self.router = self._routers.after(self.router)
            return 0.0
        if self._break is None or not (self._can_resume and self._request_id):
            raise error
        self.router = self._routers.after(self.router)
        return self._next_try(error, self._break)

    def _ask_another(self, error: RequestError, begun: RequestError) -> float:
        """Return the seconds to wait where a router does not have the answer to read again.

        One that broke may have it. Raises the error once no router is left.
        """
        self._without.add(self.router)
        if not self._can_resume or len(self._without) == len(self._routers.members):
            raise error
        self.router = self._routers.after(self.router)
        return self._next_try(error, begun)

    def _note_break(self, error: RequestError) -> RequestError:
        """Return the error that began the break, this one if none did."""
        if self._break is None:
            self._break, self._broken_s = error, time.monotonic()
        return self._break

    def _next_try(self, error: RequestError, begun: RequestError) -> float:
        """Return the seconds to wait, and count a try. Raises the break's error when its time is over."""
        pause_s = self._pause_s(error)
        if time.monotonic() + pause_s > self._broken_s + RESUME_WITHIN_S:
            raise error if isinstance(error, OverloadedError) else begun
        self._num_tries += 1
        return pause_s

    def _ask_for_next(self) -> inference_pb2.GenerateRequest:
        return inference_pb2.GenerateRequest(request_id=self._request_id, resume_from=self._next)

    def _check(self, error: RequestError, begun: RequestError, *, can_go_on: bool) -> None:
        """Raise the error that ends the request if no router will go on after `error`.

        `can_go_on`: the output so far is enough for any router.
        """
        if error.reason is Reason.ROUTER_UNREACHABLE:
            return
        has_answered = self._num_tries > 0 and error.reason in (*_FORGOTTEN, *_FULL)
        if can_go_on and (has_answered or can_go_elsewhere(error)):
            return
        raise begun if error.reason is Reason.REQUEST_NOT_FOUND else error

    def _turn(self, error: RequestError, rest: inference_pb2.GenerateRequest | None) -> None:
        """Set the next message and its router."""
        if error.reason is not Reason.ROUTER_UNREACHABLE and self.router is self._holder:
            self._holder = None  # it has ended or forgotten the request
        is_first_break = not self._num_tries and error.reason is Reason.ROUTER_UNREACHABLE
        has_answered = error.reason in _FORGOTTEN  # and can have it anew
        if rest is not None and not is_first_break and not has_answered:
            self.router = self._routers.after(self.router)
        if rest is None or self.router is self._holder:
            rest = self._ask_for_next()
        self.request = rest

    def _pause_s(self, error: RequestError) -> float:
        """Return the seconds to wait: before each round of the routers, and as long as a router says."""
        num_rounds, place = divmod(self._num_tries, len(self._routers.members))
        pause_s = 0.0 if place else _PAUSES_S[min(num_rounds, len(_PAUSES_S) - 1)]
        return max(pause_s, error.retry_after_s) if isinstance(error, OverloadedError) else pause_s
