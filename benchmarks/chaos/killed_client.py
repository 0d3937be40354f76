"""Client process that asks without an end, and is killed: `python -m benchmarks.chaos.killed_client`."""

import asyncio
import sys
from pathlib import Path

from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2

_NUM_STREAMS = 2
_WITHIN_S = 300.0
_FOLDER = Path(__file__).parents[2]


async def kill_a_client(address: str) -> None:
    """Start a client, and kill it when its streams have begun. Raises TimeoutError, OSError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, address),
        stdout=asyncio.subprocess.PIPE,
        cwd=_FOLDER,
    )
    try:
        if process.stdout is None:
            raise OSError("no pipe")
        async with asyncio.timeout(_WITHIN_S):
            for _ in range(_NUM_STREAMS):
                await process.stdout.readline()
    finally:
        process.kill()
        await process.wait()


async def _ask(address: str) -> None:
    async with AsyncClient(address) as client:
        await asyncio.gather(*(_stream(client, number) for number in range(_NUM_STREAMS)))


async def _stream(client: AsyncClient, number: int) -> None:
    sampling = inference_pb2.SamplingParams(max_tokens=400, ignore_eos=True, temperature=0.0)
    is_first = True
    async for _ in client.stream(f"Nobody reads answer {number}, and it goes on.", sampling):
        if is_first:
            print("begun", flush=True)
        is_first = False


if __name__ == "__main__":
    asyncio.run(_ask(sys.argv[1]))
