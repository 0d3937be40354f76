import asyncio

import pytest

from router.workers.conversation import Conversation


async def test_hanging_up_while_the_patience_ends_does_nothing_more() -> None:
    conversation = Conversation()

    async def run() -> None:
        async with asyncio.timeout(None) as conversation._patience:
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await asyncio.sleep(0)
    conversation.hang_up()
    await asyncio.sleep(0)  # the timeout has expired, and the task has not seen it
    conversation.hang_up()
    with pytest.raises(TimeoutError):
        await running
