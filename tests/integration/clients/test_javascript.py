"""OpenAI's package for JavaScript, unmodified, against a real deployment; by `make test-clients`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.client_tools import installed
from tests.integration.support.openai_deployment import MODEL
from tests.integration.support.processes import Served
from tests.patience import WITHIN_S

pytestmark = [pytest.mark.deployment, pytest.mark.clients]

SCRIPT = Path(__file__).parent / "javascript" / "openai_chat.mjs"
NODE = shutil.which("node")
PARIS = "The capital of France is Paris."


@pytest.fixture(scope="module")
def found(served: Served) -> Any:
    if NODE is None:
        pytest.skip("node is not installed")
    folder = installed("javascript")  # has node_modules
    ended = subprocess.run(
        [NODE, str(SCRIPT), served.openai, MODEL, str(folder.resolve())],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_chats_whole_and_streamed_say_the_same(found: Any) -> None:
    assert (found["text"], found["stream"], found["response"]) == (PARIS, PARIS, PARIS)
    assert found["usage"] == found["streamUsage"]
    assert found["completion"] > 0
    assert found["models"] == [MODEL]


def test_a_forced_call_is_read_whole_and_streamed(found: Any) -> None:
    assert found["call"] == ["weather", ["city"]]
    streamed, whole = found["streamedCall"], found["wholeCall"]
    assert (streamed["name"], streamed["arguments"]) == (whole["name"], whole["arguments"])


def test_errors_have_their_classes(found: Any) -> None:
    assert found["errors"] == [
        ["NotFoundError", 404, "model_not_found", "model"],
        ["BadRequestError", 400, "invalid_value", "temperature"],
        ["BadRequestError", 400, "empty_prompt", "messages"],
    ]
