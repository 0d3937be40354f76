"""The tour of `pdserve demo`: the live page's address, what to look at, and a load to look at."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from rich.console import Console

_WHAT_TO_SEE = """\
live page: {address}
  Hand-offs      a prompt's KV travels to the decode worker while its last chunks still run
  Decode pool    each row is a sequence: it steps on at the bottom and off as soon as it has ended
  Enter on a row its waterfall: queue, prefill chunks, KV, decode
"""


def describe(address: str) -> str:
    """Return what to look at on the live page, in a few lines."""
    return _WHAT_TO_SEE.format(address=address)


async def go_on_until_enter(console: Console, ask_again: Callable[[], Awaitable[None]]) -> None:
    """Ask the prompts again and again until Enter; not at all without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    asking = asyncio.create_task(_ask_for_ever(ask_again))
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), asking.cancel)
    try:
        with console.status("the prompts go on for the live page; press Enter to end"):
            await asyncio.wait([asking])
    finally:
        loop.remove_reader(sys.stdin.fileno())
        asking.cancel()
    if not asking.cancelled():
        asking.result()  # raises what ended it


async def _ask_for_ever(ask_again: Callable[[], Awaitable[None]]) -> None:
    while True:
        await ask_again()
