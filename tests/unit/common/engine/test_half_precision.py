"""In two-byte dtypes logits are those of `transformers` in that dtype, within its rounding.

Tokens are teacher-forced: a choice may differ only where the reference's own two best lie within that error.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.config import Backend
from common.engine.batch import Batch, BatchEntry
from common.engine.engine import Engine
from common.engine.kv_cache import DTYPES
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.sequences import make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    make_engine,
    poison,
    save_model,
)

TEXT = [random.Random(8).randrange(VOCAB) for _ in range(60)]
CHUNKS = (7, 16, 1, 1, 1, 30, 1, 1, 1, 1)
# measured 0.5 % and 4 % at most, relative, of a row
TOLERANCE = {"float16": 0.015, "bfloat16": 0.1}


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma3_text", "qwen2", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models"), request.param)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("backend", "fusion"), [("cpu", "auto"), ("reference", "off")])
def test_teacher_forced_logits(folder: Path, dtype: str, backend: Backend, fusion: str) -> None:
    engine = make_engine(folder, engine_config(dtype=dtype, backend=backend, fusion=fusion))
    poison(engine)
    ours = forced_logits(engine)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
    ends = torch.tensor(CHUNKS).cumsum(0) - 1
    with torch.inference_mode():
        theirs = reference(torch.tensor([TEXT])).logits[0, ends].float()
    error = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    assert error.max() < TOLERANCE[dtype]
    best = theirs.topk(2).values
    is_clear = best[:, 0] - best[:, 1] > 2 * (ours - theirs).abs().amax(dim=-1)
    assert is_clear.sum() >= 5, "the model is not lively enough to tell"
    assert torch.equal(ours.argmax(-1)[is_clear], theirs.argmax(-1)[is_clear])


def forced_logits(engine: Engine) -> torch.Tensor:
    """[chunks, vocab]: the row behind each chunk of TEXT."""
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
