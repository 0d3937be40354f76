"""A limit of time for a client that does not read its stream.

gRPC buffers a few megabytes for such a client; then writing blocks, and the limit counts.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc

from common.rpc.status import error_from_reason
from pdserve.errors import Reason
from router.workers.unread import SLOW_CLIENT


async def write(
    context: grpc.aio.ServicerContext[Any, Any], message: object, within_s: float
) -> None:
    """Send a message of a stream. Raises OverloadedError when it is not taken in time."""
    await deliver(context.write(message), within_s)


async def deliver(sending: Awaitable[None], within_s: float) -> None:
    """Wait for a client to take what is sent. Raises OverloadedError when it does not in time."""
    try:
        async with asyncio.timeout(within_s):
            await sending
    except TimeoutError:
        raise error_from_reason(Reason.SLOW_CONSUMER, SLOW_CLIENT) from None
