"""Attention with ALiBi by modules of ours."""

from pathlib import Path

import pytest
import torch

from common.engine.attention.alibi import take_over_alibi
from common.engine.attention.reference import ReferenceBackend
from common.engine.memory.kv_cache import KVCache
from common.engine.weights.load import load_model
from tests.unit.common.engine.tiny_models import save_model

CPU = torch.device("cpu")


@pytest.mark.parametrize(("family", "attention"), [("bloom", "self_attention"), ("mpt", "attn")])
def test_a_later_backend_takes_the_place_of_an_earlier_one(
    tmp_path: Path, family: str, attention: str
) -> None:
    model, spec = load_model(save_model(tmp_path, family), "float32", CPU)
    backends = [ReferenceBackend(KVCache(spec, 2, 16, CPU, "pages")) for _ in range(2)]
    own = [module for name, module in model.named_modules() if name.endswith(f".{attention}")]
    for backend in backends:
        take_over_alibi(model, backend)
    ours = [module for name, module in model.named_modules() if name.endswith(f".{attention}")]
    assert [module.theirs for module in ours] == own
    assert all(module._backend is backends[1] for module in ours)
