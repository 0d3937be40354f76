"""Outputs that a client has not read yet. Beyond a number of tokens its request is ended.

router/edge/slow_client.py has a limit of time for a client that reads nothing at all.
"""

import asyncio

from common.messages import SequenceOutput

SLOW_CLIENT = "the client reads too slowly"


class Unread:
    """Outputs of one stream between worker and client, meant to have at most `max_tokens` tokens."""

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
        """True while there are more tokens than a client may leave unread."""
        return self._num_tokens > self._max_tokens

    async def get(self) -> SequenceOutput:
        """Wait for the next output."""
        output = await self._outputs.get()
        self._num_tokens -= len(output.token_ids)
        return output
