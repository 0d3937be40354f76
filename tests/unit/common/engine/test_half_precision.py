"""Logits in two-byte dtypes are as near to the exact ones as those of `transformers`.

Exact is the same model, its weights rounded to the dtype, run in float32. Tokens are teacher-forced, and a
choice may differ only where rounding could change it.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.config import Backend
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.memory.kv_cache import DTYPES
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.sequences import make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    make_engine,
    poison,
    save_model,
)

TEXT = random.Random(8).choices(range(VOCAB), k=60)
CHUNKS = (7, 16, 1, 1, 1, 30, 1, 1, 1, 1)


FAMILIES = (
    "llama",
    "mistral",
    "gemma3_text",
    "qwen2",
    "gpt2",
    "vaultgemma",
    "gpt_oss",
    "minicpm3",
)
CASES = [
    *((family, "bfloat16") for family in FAMILIES if family != "gpt2"),
    ("llama", "float16"),
    # the kernels' source is that of the others, and is compiled for each shape of heads
    pytest.param("gpt2", "bfloat16", marks=pytest.mark.slow),
    *(pytest.param(family, "float16", marks=pytest.mark.slow) for family in FAMILIES[1:]),
]


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_teacher_forced_logits(tmp_path: Path, family: str, dtype: str) -> None:
    folder = save_model(tmp_path, family)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
    theirs, exact = own_logits(reference), own_logits(reference.float())
    best = exact.topk(2).values
    paths: tuple[tuple[Backend, str], ...] = (("cpu", "auto"), ("reference", "off"))
    for backend, fusion in paths:
        engine = make_engine(folder, engine_config(dtype=dtype, backend=backend, fusion=fusion))
        poison(engine)
        ours = forced_logits(engine)
        assert error(ours, exact).median() <= 2 * error(theirs, exact).median(), backend
        assert error(ours, exact).max() <= 3 * error(theirs, exact).max(), backend
        is_clear = best[:, 0] - best[:, 1] > 2 * (ours - exact).abs().amax(dim=-1)
        assert is_clear.sum() >= 4, "the model is not lively enough to tell"
        assert torch.equal(ours.argmax(-1)[is_clear], exact.argmax(-1)[is_clear]), backend


def error(logits: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Compute the relative error of each row."""
    return (logits - exact).norm(dim=-1) / exact.norm(dim=-1)


def own_logits(reference: Any) -> torch.Tensor:
    ends = torch.tensor(CHUNKS).cumsum(0) - 1
    with torch.inference_mode():
        logits: torch.Tensor = reference(torch.tensor([TEXT])).logits[0, ends].float()
    return logits


def forced_logits(engine: Engine) -> torch.Tensor:
    """Return [chunks, vocab]: the row behind each chunk of TEXT."""
    rows = []
    seq = make_sequence([])
    seq.block_table = engine.pool.allocate(engine.pool.num_blocks_for(len(TEXT)))
    for count in CHUNKS:
        seq.token_ids.extend(TEXT[len(seq.token_ids) :][:count])
        inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, count),)), engine.pool.block_size)
        rows.append(engine.runner.logits(inputs)[0].float().clone())
        seq.num_computed_tokens += count
    engine.pool.release(seq.block_table)
    return torch.stack(rows)
