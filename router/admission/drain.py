"""The last requests of a router that stops."""

import asyncio
import contextlib

from router.admission.admission import Admission

_POLL_S = 0.02
_ENDED_WITHIN_S = 2.0  # for requests that were told to end


async def await_ends(admission: Admission, within_s: float) -> None:
    """Return when no request is in flight, or the seconds are over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while admission.num_in_flight:
                await asyncio.sleep(_POLL_S)


async def end_rest(admission: Admission) -> None:
    """End the requests in flight with SHUTTING_DOWN, and wait a while for them to leave."""
    admission.end_all()
    await await_ends(admission, _ENDED_WITHIN_S)
