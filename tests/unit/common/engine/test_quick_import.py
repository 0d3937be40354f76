"""Quick import of transformers: a model runs as after a plain import, without torch's compiler."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model

PROMPTS = [[1, 2, 3, 4, 5], [7] * 30]
FAMILIES = ("llama", "gemma3_text", "gpt_neox")
LEFT_OUT = ("torch._dynamo.convert_frame", "torch.distributed.tensor")
_FAIL_ONCE = """
class FailOnce:
    def find_spec(self, name, path, target=None):
        if name == "transformers.modeling_utils":
            sys.meta_path.remove(self)
            raise RuntimeError("not this time")
sys.meta_path.insert(0, FailOnce())
"""
# as a worker does it whose model is loaded by transformers
_RUN = """
from common.engine.quick_torch import import_parts, put_off_parts
put_off_parts()
from common.engine.quick_import import import_transformers
import_parts()
import_transformers()
from tests.unit.common.engine.test_quick_import import LEFT_OUT, generate
result = {
    "tokens": [generate(Path(folder)) for folder in sys.argv[1:]],
    "loaded": [name for name in LEFT_OUT if name in sys.modules],
}
import transformers, torch
result["classes"] = transformers._class_to_module
result["marks"] = hasattr(torch._dynamo, "mark_dynamic")
print(json.dumps(result))
"""


def generate(folder: Path) -> list[list[int]]:
    """Return greedy tokens after each prompt."""
    return continuations(make_engine(folder, engine_config()), PROMPTS, 8, 64)


def run_in_worker(script: str, folders: list[Path]) -> dict[str, Any]:
    """Run a script in a process that has not imported transformers; return the JSON that it prints."""
    root = Path(__file__).parents[4]
    result = subprocess.run(
        [sys.executable, "-c", f"import json, sys; from pathlib import Path\n{script}", *folders],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write a model of each family."""
    return [save_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES]


def test_models_run_as_ever_and_nothing_that_was_left_out_is_missed(folders: list[Path]) -> None:
    result = run_in_worker(_RUN, folders)
    assert result["tokens"] == [generate(folder) for folder in folders]
    assert result["loaded"] == []
    assert result["classes"] == vars(transformers)["_class_to_module"]
    assert result["marks"]  # who asks for the compiler later gets the real one


def test_an_import_that_fails_is_done_again_the_plain_way(folders: list[Path]) -> None:
    result = run_in_worker(_FAIL_ONCE + _RUN, folders[:1])
    assert result["tokens"] == [generate(folders[0])]
    assert result["loaded"] == list(LEFT_OUT)
