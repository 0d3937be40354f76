"""Lets requests into an Admission, as the Dispatcher does."""

from collections.abc import Callable

from router.access.tenant import RequestKey
from router.admission.admission import Admission, Ticket


def ignore() -> None:
    """Do nothing, when a request is cancelled."""


def enter(
    admission: Admission,
    key: RequestKey,
    num_tokens: int,
    cancel: Callable[[], None] = ignore,
    forecast: Callable[[], None] = ignore,
) -> Ticket:
    """Check a request, ask the forecast, and let the request in; a refusal is counted."""
    with admission.refusing(key):
        admission.check(key, num_tokens)
        forecast()
    return admission.admit(key, num_tokens, cancel)
