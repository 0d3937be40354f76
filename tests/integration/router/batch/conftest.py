"""Fixtures of the tests that send files of prompts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support.batch_command import Bench, CommandLine, benching
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """Return a runner of `pdserve` commands in this process."""
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def bench(tmp_path: Path, command_line: CommandLine) -> Iterator[Bench]:
    """Yield a router over one worker that echoes, and a runner of commands that use it."""
    worker = ScriptedWorker(script=echo)
    with benching(write_folder(tmp_path / "model"), worker, command_line) as found:
        yield found
