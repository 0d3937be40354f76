"""Keys unlike values, and layers unlike each other: the tokens of `transformers`, and bytes by hand."""

import random
from pathlib import Path

import pytest

from common.config import Backend
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.memory.host_swap import HostSwap
from common.engine.memory.kv_cache import kv_layout
from common.kv_transfer.layout import KVShape, LatentShape
from tests.unit.common.engine.generation import continuations, generate, lively_tokens
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (5, 70, 300)]
NEW_TOKENS = 8
LOCAL, GLOBAL, LATENT = KVShape(2, 16, 16), KVShape(2, 32, 32), LatentShape(1, 48, 32)
GEMMA = (LOCAL, GLOBAL)
# what is kept, and the bytes of one position in float32, counted by hand
CASES: dict[str, tuple[str, dict[str, object], tuple[KVShape, ...], int]] = {
    "deepseek v2": ("deepseek_v2", {}, (LATENT,) * 2, 2 * 48 * 4),
    "deepseek v3": ("deepseek_v3", {}, (LATENT,) * 2, 2 * 48 * 4),
    "no latent of queries": ("deepseek_v3", {"q_lora_rank": None}, (LATENT,) * 2, 384),
    "minicpm 3": ("minicpm3", {}, (LATENT,) * 2, 384),
    "glm 4 lite": ("glm4_moe_lite", {}, (LATENT,) * 2, 384),
    "gemma 4": ("gemma4_text", {}, GEMMA * 2, 2 * 2 * 2 * (16 + 32) * 4),
    "gemma 4, upper layers read the KV of lower ones": (
        "gemma4_text",
        {"num_kv_shared_layers": 2},
        GEMMA,
        2 * 2 * (16 + 32) * 4,
    ),
    "gemma 4, keys are values, one KV head in global layers": (
        "gemma4_text",
        # two heads: each global KV head has as many queries as above
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_attention_heads": 2},
        (LOCAL, KVShape(1, 32, 32)) * 2,
        2 * 2 * (2 * 16 + 1 * 32) * 4,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    """Prompts of 5, 70 and 300 tokens run beside each other, in chunks and decode steps."""
    family, changes, shapes, num_bytes = CASES[case]
    folder = save_model(tmp_path, family, **changes)
    reference = load_reference(folder)
    expected = lively_tokens(reference, PROMPTS, NEW_TOKENS)
    for backend in ("cpu", "reference"):
        engine = make(folder, backend)
        assert engine.cache.shapes == shapes
        assert engine.spec.kv_bytes_per_token(4) == num_bytes
        assert engine.cache.storage == {"cpu": "packed", "reference": "pages"}[backend]
        assert engine.cache.block_bytes(engine.spec, 16) == 16 * num_bytes
        assert engine.cache.num_bytes == engine.pool.num_blocks * 16 * num_bytes
        assert engine.cache.num_bytes_per_token == num_bytes
        assert kv_layout(engine.spec).num_bytes(3) == 3 * num_bytes
        poison(engine)
        assert continuations(engine, PROMPTS, NEW_TOKENS, 41) == expected, backend


@pytest.mark.parametrize("family", ["deepseek_v3", "gemma4_text"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("num_known", [0, 16])
def test_kv_that_waited_in_host_memory_goes_on_as_if_it_had_not(
    tmp_path: Path, family: str, backend: Backend, num_known: int
) -> None:
    """The sequence comes back to other blocks, whose first `num_known` positions others hold already."""
    engine = make(save_model(tmp_path, family), backend)
    prompt = PROMPTS[1][:50]
    [expected] = continuations(engine, [prompt], NEW_TOKENS, 64)
    poison(engine)
    seq = hold(engine.pool, make_sequence(prompt, max_tokens=NEW_TOKENS), len(prompt) + NEW_TOKENS)
    engine.runner.run(Batch((BatchEntry(seq, 39),)))
    seq.num_computed_tokens = 39
    swap = HostSwap(engine.cache, engine.prefix, 2**30, engine.costs, lambda: 2**30)
    assert swap.save(seq)
    assert swap.num_bytes == 39 * engine.cache.num_bytes_per_token
    known = seq.block_table[: num_known // 16]
    seq.block_table = known + engine.pool.allocate(len(seq.block_table) - len(known))
    seq.num_computed_tokens = num_known
    swap.restore(seq)
    assert seq.num_computed_tokens == 39
    generate(engine, [seq], 64)
    assert seq.token_ids[len(prompt) :] == expected


def make(folder: Path, backend: Backend) -> Engine:
    return make_engine(folder, engine_config(backend=backend, num_blocks=192))
