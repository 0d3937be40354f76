"""How far a client may fall behind with reading before it is cut off.

gRPC takes a few megabytes for a client that does not read; then writing blocks. From there on the client has
so many seconds. Meanwhile its tokens are kept, up to a number: beyond, its request ends at its worker.
"""

import asyncio
from typing import Any

import grpc

from common.messages import SequenceOutput
from common.rpc.status import error_from_reason
from pdserve.errors import Reason

SLOW_CLIENT = "the client reads too slowly"


async def write(
    context: grpc.aio.ServicerContext[Any, Any], message: object, within_s: float
) -> None:
    """Send a message of a stream. Raises OverloadedError when it is not taken in time."""
    try:
        async with asyncio.timeout(within_s):
            await context.write(message)
    except TimeoutError:
        raise error_from_reason(Reason.SLOW_CONSUMER, SLOW_CLIENT) from None


class Unread:
    """One stream's outputs between worker and client, at most `max_tokens` of them."""

    def __init__(self, max_tokens: int) -> None:
        self._outputs: asyncio.Queue[SequenceOutput] = asyncio.Queue()
        self._max_tokens = max_tokens
        self._num_tokens = 0

    def put(self, output: SequenceOutput) -> None:
        """Add an output; see `is_full`."""
        self._num_tokens += len(output.token_ids)
        self._outputs.put_nowait(output)

    @property
    def is_full(self) -> bool:
        """More is here than a client may leave unread."""
        return self._num_tokens > self._max_tokens

    async def get(self) -> SequenceOutput:
        """The next output, when there is one."""
        output = await self._outputs.get()
        self._num_tokens -= len(output.token_ids)
        return output
