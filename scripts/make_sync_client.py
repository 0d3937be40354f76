"""Writes the client without an event loop, from the asyncio client: two files of pdserve/.

`make sync-client` runs it; a test compares the committed files with what it would write.
"""

import subprocess
import sys
from pathlib import Path

_LIBRARY = Path(__file__).parents[1] / "pdserve"
_GENERATED = "Generated from pdserve/{0}.py by `make sync-client`; edit that file, not this one.\n"
_COMMON = [
    ("AsyncGenerator", "Generator"),
    ("AsyncCalls", "Calls"),
    ("aclosing", "closing"),
    ("async def ", "def "),
    ("async with ", "with "),
    ("async for ", "for "),
    ("await ", ""),
]
# Applied in this order; each must be found, so that no rule outlives what it was written for.
RULES = {
    "client": [
        (
            '"""The asyncio client. `pdserve.sync_client` has the same for code without an event loop.',
            '"""The client for code without an event loop; `pdserve.client` has the same for asyncio.\n\n'
            + _GENERATED.format("client"),
        ),
        (
            "Use it as an async context manager.",
            "Use it from any thread, and as a context manager.",
        ),
        ("pdserve.calls", "pdserve.sync_calls"),
        ("AsyncClient", "Client"),
        ("__aenter__", "__enter__"),
        ("__aexit__", "__exit__"),
        *_COMMON,
    ],
    "calls": [
        (
            '"""Calls of the asyncio client. `pdserve.sync_calls` has them without an event loop.\n',
            '"""Calls of the client without an event loop; `pdserve.calls` has the same for asyncio.\n\n'
            + _GENERATED.format("calls"),
        ),
        ("import asyncio\n", "import time\n"),
        ("async for response in call:\n                yield response", "yield from call"),
        (
            "(stream):\n            async for response in stream:\n                yield response",
            "(stream):\n            yield from stream",
        ),
        ("asyncio.sleep", "time.sleep"),
        ("AsyncGenerator, Awaitable, Callable, Sequence", "Callable, Generator, Sequence"),
        ("Callable[..., Awaitable[T]]", "Callable[..., T]"),
        ("grpc.aio.AioRpcError", "grpc.RpcError"),
        ("grpc.aio.", "grpc."),
        ("AsyncRouter", "Router"),
        *_COMMON,
    ],
}


def source_of(name: str) -> Path:
    """Return the file that is edited."""
    return _LIBRARY / f"{name}.py"


def target_of(name: str) -> Path:
    """Return the file that is written."""
    return _LIBRARY / f"sync_{name}.py"


def to_sync(name: str, text: str) -> str:
    """Return the synchronous source for the asyncio source of `client` or `calls`.

    Raises ValueError where a rule finds nothing to replace, or something asynchronous is left.
    """
    for old, new in RULES[name]:
        if old not in text:
            raise ValueError(f"{name}.py has no {old!r} any more: change RULES")
        text = text.replace(old, new)
    code = text.partition("\nfrom ")[2]
    if "async" in code or "aio" in code.replace("asyncio", ""):
        raise ValueError("something asynchronous is left: add to RULES")
    return _formatted(target_of(name), text)


def _formatted(target: Path, text: str) -> str:
    for command in (("check", "--quiet", "--select", "I", "--fix"), ("format",)):
        text = subprocess.run(  # noqa: S603 - our own tool, no shell
            [
                str(Path(sys.executable).with_name("ruff")),
                *command,
                "--stdin-filename",
                str(target),
                "-",
            ],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


if __name__ == "__main__":
    for name in RULES:
        target_of(name).write_text(to_sync(name, source_of(name).read_text("utf-8")), "utf-8")
