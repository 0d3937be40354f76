"""Writes pdserve/sync_client.py, the client without an event loop, from pdserve/client.py.

`make sync-client` runs it; a test compares the committed file with what it would write.
"""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "pdserve" / "client.py"
TARGET = SOURCE.with_name("sync_client.py")

# Applied in this order; each must be found, so that no rule outlives what it was written for.
RULES = [
    (
        '"""The asyncio client. `pdserve.sync_client` has the same for code without an event loop.',
        '"""The client for code without an event loop; `pdserve.client` has the same for asyncio.\n\n'
        "Generated from pdserve/client.py by `make sync-client`; edit that file, not this one.\n",
    ),
    (
        "Calls one router. Use it as an async context manager.",
        "Calls one router, from any thread. Use it as a context manager.",
    ),
    ("AsyncGenerator, Awaitable, Callable, Sequence", "Callable, Generator, Sequence"),
    ("async for response in call:\n                yield response", "yield from call"),
    ("Callable[..., Awaitable[T]]", "Callable[..., T]"),
    ("grpc.aio.AioRpcError", "grpc.RpcError"),
    ("AsyncClient", "Client"),
    ("AsyncGenerator", "Generator"),
    ("aclosing", "closing"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("grpc.aio.", "grpc."),
    ("async def ", "def "),
    ("async with ", "with "),
    ("async for ", "for "),
    ("await ", ""),
]


def to_sync(text: str) -> str:
    """Return the synchronous client's source for the asyncio client's.

    Raises ValueError where a rule finds nothing to replace, or something asynchronous is left.
    """
    for old, new in RULES:
        if old not in text:
            raise ValueError(f"{SOURCE.name} has no {old!r} any more: change RULES")
        text = text.replace(old, new)
    code = text.partition("\nimport ")[2]
    if "async" in code or "aio" in code.replace("asyncio", ""):
        raise ValueError("something asynchronous is left: add to RULES")
    return _formatted(text)


def _formatted(text: str) -> str:
    command = [
        str(Path(sys.executable).with_name("ruff")),
        "format",
        "--stdin-filename",
        str(TARGET),
    ]
    done = subprocess.run(  # noqa: S603 - our own tool, no shell
        [*command, "-"], input=text, capture_output=True, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    TARGET.write_text(to_sync(SOURCE.read_text("utf-8")), "utf-8")
