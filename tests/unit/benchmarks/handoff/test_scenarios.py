import asyncio

import pytest

from benchmarks.handoff.scenarios import _beside


async def _fail() -> None:
    raise OSError("the server is gone")


async def _run(work: object) -> None:
    async with _beside(work):  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_what_goes_on_meanwhile_must_go_on() -> None:
    asyncio.run(_run(asyncio.Event().wait()))
    with pytest.raises(RuntimeError, match="ended early"):
        asyncio.run(_run(asyncio.sleep(0)))
    with pytest.raises(OSError, match="the server is gone"):
        asyncio.run(_run(_fail()))
