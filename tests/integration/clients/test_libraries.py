"""Client libraries of OpenAI's API, unmodified, against a real deployment; by `make test-clients`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.client_tools import installed
from tests.integration.support.openai_deployment import MODEL
from tests.integration.support.processes import Served
from tests.patience import WITHIN_S

pytestmark = [pytest.mark.deployment, pytest.mark.clients]

SCRIPTS = Path(__file__).parent / "scripts"
PARIS = "The capital of France is Paris."


def run(script: str, served: Served) -> Any:
    """Return the JSON that a script prints."""
    python = installed("libraries") / "bin" / "python"  # has what tools/libraries.txt lists
    # litellm asks the net for prices otherwise
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        [str(python), str(SCRIPTS / script), served.openai, MODEL],
        capture_output=True,
        text=True,
        env=environment,
        timeout=WITHIN_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_litellm_chats_and_streams(served: Served) -> None:
    assert run("litellm_chat.py", served) == {"text": PARIS, "stream": PARIS}


def test_langchain_chats_streams_and_gets_structured_output(served: Served) -> None:
    found = run("langchain_chat.py", served)
    assert (found["text"], found["stream"]) == (PARIS, PARIS)
    assert 0 < len(found["city"]) <= 20


def test_instructor_gets_structured_output_by_tools_and_by_schema(served: Served) -> None:
    found = run("instructor_extract.py", served)
    assert set(found) == {"TOOLS", "JSON_SCHEMA"}
    assert all(0 < len(name) <= 20 for name in found.values())


def test_pydantic_ai_uses_chats_and_responses(served: Served) -> None:
    found = run("pydantic_ai_agent.py", served)
    assert found == {"OpenAIChatModel": PARIS, "OpenAIResponsesModel": PARIS}
