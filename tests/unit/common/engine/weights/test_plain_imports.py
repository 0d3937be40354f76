"""Imports of a worker with the default family: none of the large packages that it has no use for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.unit.common.engine.tiny_models import save_model

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
print(json.dumps({"imported": imported, "drawn": drawn}))
"""


def test_a_worker_with_a_plain_llama_imports_nothing_large(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    root = Path(__file__).parents[5]
    ran = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    assert "torch" in found["imported"]
    assert set(found["imported"]).isdisjoint(HEAVY)
    # a class of torch that one of the parts left out completes: before these are imported, and after
    expected = torch.randn(3, generator=torch.Generator().manual_seed(7)).tolist()
    assert found["drawn"] == [expected] * 2
