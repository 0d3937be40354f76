"""Start of a worker with the default family: it imports nothing large, and compiles what is on disk never."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import EngineConfig
from common.engine.cpu.target import host_target
from tests.unit.common.engine.tiny_models import make_engine, save_model

HEAVY = (
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "sympy",
    "torch._decomp",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "PIL",
    "scipy",
    "sklearn",
    "matplotlib",
)
# what deploy.actors imports and builds, without Ray
_BUILD = """
import json, sys
from pathlib import Path
from common.config import EngineConfig
from common.engine.quick_torch import put_off_parts
put_off_parts()
from common.engine.device import select_device
from common.engine.weights.choose import import_loader
config = EngineConfig(device="cpu", dtype="float32", kv_cache_gib=0.01)
folder = Path(sys.argv[1])
import_loader(folder, config, select_device(config))
from common.engine.prepare import prepare_kernels
from common.worker.host import build_host
from decode_worker.worker import make_decode_worker
from prefill_worker.worker import make_prefill_worker
prepare_kernels(folder, config, 1)
from common.engine.build import build_engine
build_engine(folder, config, 1)
imported = sorted(sys.modules)
import torch
from common.engine.quick_torch import import_parts
def draw():
    return torch.randn(3, generator=torch.Generator().manual_seed(7)).tolist()
drawn = [draw()]
import_parts()
drawn.append(draw())
from common.engine.cpu.kernel_cache import tally
kernels = [tally().compiled, tally().loaded]
print(json.dumps({"imported": imported, "drawn": drawn, "kernels": kernels}))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Build an engine here, then in a process of its own; return what that process found."""
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    make_engine(folder, EngineConfig(device="cpu", dtype="float32", kv_cache_gib=0.01))
    root = Path(__file__).parents[5]
    ran = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_a_worker_with_a_plain_llama_imports_nothing_large(worker: dict[str, Any]) -> None:
    assert "torch" in worker["imported"]
    assert set(worker["imported"]).isdisjoint(HEAVY)
    # a class of torch that one of the parts left out completes: before these are imported, and after
    expected = torch.randn(3, generator=torch.Generator().manual_seed(7)).tolist()
    assert worker["drawn"] == [expected] * 2


@pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")
def test_the_second_process_compiles_nothing(worker: dict[str, Any]) -> None:
    """A kernel is compiled once a machine: the next process finds it on disk."""
    compiled, loaded = worker["kernels"]
    assert compiled == 0
    assert loaded > 5
