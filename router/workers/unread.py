"""Outputs that a client has not read yet, up to a number of tokens; beyond it its request ends at its worker.

For a client that reads nothing at all, router/edge/slow_client.py has a limit of time.
"""

import asyncio

from common.messages import SequenceOutput

SLOW_CLIENT = "the client reads too slowly"


class Unread:
    """One stream's outputs between worker and client, at most `max_tokens` of them."""

    def __init__(self, max_tokens: int) -> None:
        self._outputs: asyncio.Queue[SequenceOutput] = asyncio.Queue()
        self._max_tokens = max_tokens
        self._num_tokens = 0

    def put(self, output: SequenceOutput) -> None:
        """Add an output, also beyond `max_tokens`; then `is_full` is true."""
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
