"""Time of a scale-up: from `pdserve scale --decode 2` to the first token of the new worker.

Usage: python -m benchmarks.replacement.scale_up [--rounds N]

A deployment of 1P1D with the default model, which is in the cache, and three users who ask short
questions all the time. The command itself counts, so its own start does too. After each round the
new worker goes again.
"""

import asyncio
import statistics
import time
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.environment import write_result
from benchmarks.pdserve_server import PDSERVE, serving
from benchmarks.replacement.users import Users
from common.engine.weights.catalog import DEFAULT_ALIAS
from pdserve.client import AsyncClient

GOAL_S = 20.0
_USERS, _OUTPUT_TOKENS = 3, 16
_WITHIN_S = 120.0
# least_loaded: by default a new worker waits for work that the old one bears badly
_COMMAND = (
    *(DEFAULT_ALIAS, "--prefill", "1", "--decode", "1"),
    *("--pin", "off", "--policy", "least_loaded"),
)
_KV_GIB = "0.5"


def main(rounds: Annotated[int, typer.Option(min=1, help="Scale-ups")] = 3) -> None:
    """Measure and write benchmarks/results/scale_up.json."""
    console = Console()
    measured = asyncio.run(_measure(rounds, console))
    first_token_s = [one["first token, s"] for one in measured]
    figures = {
        "first token, s": round(statistics.median(first_token_s), 2),
        "slowest, s": max(first_token_s),
        "goal, s": GOAL_S,
        "rounds": measured,
    }
    write_result("scale_up", figures)
    console.print(figures)


async def _measure(rounds: int, console: Console) -> list[dict[str, float]]:
    found = []
    async with (
        serving(*_COMMAND, PDSERVE_ENGINE__KV_CACHE_GIB=_KV_GIB) as address,
        AsyncClient(address) as client,
    ):
        for number in range(rounds):
            users = Users(client, _OUTPUT_TOKENS, seed=number)
            async with users.asking(_USERS):
                await users.until(lambda answer: not answer.is_lost, _WITHIN_S)
                found.append(await _scale_up(client, users, address))
                await _scale(address, 1)
            if lost := [answer.error for answer in users.answers if answer.is_lost]:
                raise RuntimeError(f"{len(lost)} requests were lost: {lost[0]}")
            console.print(found[-1])
    return found


async def _scale_up(client: AsyncClient, users: Users, address: str) -> dict[str, float]:
    """Add a decode worker; return the times until the command ended and until the first token."""
    known = {worker.name for worker in (await client.status()).workers}
    start_s = time.monotonic()
    await _scale(address, 2)
    ended_s = time.monotonic()
    answer = await users.until(lambda a: not a.is_lost and a.worker not in known, _WITHIN_S)
    return {
        "command, s": round(ended_s - start_s, 2),
        "first token, s": round(answer.token_times_s[0] - start_s, 2),
    }


async def _scale(address: str, decode: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(PDSERVE, "scale", "--decode", str(decode), "--address", address),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"pdserve scale ended with {process.returncode}: {stderr.decode()}")


if __name__ == "__main__":
    typer.run(main)
