"""Runs of `pdserve generate --prompts-file` in this process, on a router and a scripted worker."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from structlog.testing import capture_logs

from cli.main import main
from common.messages import WorkRequest
from pdserve.v1 import inference_pb2
from tests.integration.support.router_stack import Stack, serving
from tests.integration.support.scripted_worker import ScriptedWorker

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Printed:
    """Output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return each line of the output, parsed from JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True, slots=True)
class Bench:
    """A router over one scripted worker, and a runner of commands that use it."""

    portal: BlockingPortal
    stack: Stack
    worker: ScriptedWorker
    folder: Path
    run_command: Callable[..., Printed]

    def run(self, *entries: dict[str, Any], flags: tuple[str, ...] = ("--json",)) -> Printed:
        """Run `pdserve generate` on a file of these lines."""
        file = self.folder / "prompts.jsonl"
        file.write_text("\n".join(map(json.dumps, entries)))
        address = ("--address", self.stack.address)
        return self.run_command("generate", "--prompts-file", str(file), *address, *flags)

    def by_client(self, request: inference_pb2.GenerateRequest) -> str:
        """Return the text of the same request, sent with the client."""

        async def ask() -> str:
            return "".join([part.text async for part in self.stack.client.send(request)])

        return self.portal.call(ask)

    def last(self) -> WorkRequest:
        """Return the last request that the worker got, without its names."""
        return replace(self.worker.requests[-1], request_id="", group="")


class CommandLine:
    """Runner of `pdserve` commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *args: str) -> Printed:
        """Run a command to its end."""
        self._monkeypatch.setattr(sys, "argv", ["pdserve", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert isinstance(exit_.value.code, int | None)
        return Printed(exit_.value.code or 0, *self._capsys.readouterr())


@contextmanager
def benching(model_dir: Path, worker: ScriptedWorker, command_line: CommandLine) -> Iterator[Bench]:
    """Yield a started bench; its file of prompts is beside the model's folder."""
    with (
        capture_logs(),  # the router's lines are no output of the command
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(model_dir, worker)) as stack,
    ):
        yield Bench(portal, stack, worker, model_dir.parent, command_line.run)


def call(url: str, custom_id: str = "a", **body: object) -> dict[str, Any]:
    """Return a line of OpenAI's batch files."""
    prompt = {"messages": [{"role": "user", "content": "abcd"}]} if url == CHAT else {}
    body = prompt | ({} if url == CHAT else {"prompt": "abcd"}) | {"seed": 7} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
