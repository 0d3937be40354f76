"""Results say what machine made them, and name no folder of it."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.environment import RESULTS, describe


def test_a_command_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["x", "--python", "/a/b/python", "--file=/a/c.gguf", "--url", "http://h:1/v1", "1/2"]
    monkeypatch.setattr(sys, "argv", given)
    command = str(describe()["command"])
    assert command.endswith(" --python python --file=c.gguf --url http://h:1/v1 1/2")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_a_committed_command_names_no_folder_of_a_machine(path: Path) -> None:
    command = json.loads(path.read_text())["environment"]["command"]
    assert not [word for word in command.split() if word.rpartition("=")[2].startswith("/")]
