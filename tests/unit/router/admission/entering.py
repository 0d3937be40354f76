"""Lets requests into an Admission, as the Dispatcher does."""

from collections.abc import Callable

from pdserve.errors import RequestError
from router.access.tenant import RequestKey
from router.admission.admission import Admission, Ticket


def ignore(*_: object) -> None:
    """Do nothing, when a request is ended."""


def enter(
    admission: Admission,
    key: RequestKey,
    num_tokens: int,
    end: Callable[[RequestError], None] = ignore,
    forecast: Callable[[], None] = ignore,
) -> Ticket:
    """Check a request, ask the forecast, and let the request in; a refusal is counted."""
    with admission.refusing(key):
        admission.check(key, num_tokens)
        forecast()
    return admission.admit(key, num_tokens, end)
