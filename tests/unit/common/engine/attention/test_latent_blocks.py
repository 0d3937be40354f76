"""Latents in packed blocks: held once, and attended to with the bits that two layouts of them give."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from common.engine.attention.form import AttentionForm
from common.engine.attention.select import select_backend
from common.engine.batch import Batch, BatchEntry
from common.engine.device_inputs import on_host
from common.engine.kernel_checks.verdicts import AttentionShape, attention_verdict
from common.engine.memory.kv_cache import DTYPES, KVCache, Storage
from common.engine.model_spec import ModelSpec
from common.engine.ragged import RaggedInputs
from common.kv_transfer.layout import KVShape, LatentShape
from tests.unit.common.engine.kernel_checks.test_verdicts import has_kernels
from tests.unit.common.engine.sequences import make_sequence

CPU = torch.device("cpu")
LAYERS, LAYER = 2, 1  # the layer that is tested is not the first
# positions in memory, and new ones: decode steps at the edges of pairs, blocks and tiles; chunks; a prompt
TURNS = [(0, 1), (2, 1), (31, 1), (64, 1), (130, 1), (30, 45), (7, 20), (0, 70)]
FORMS = {
    "plain": AttentionForm(0.2),
    "window": AttentionForm(0.2, window=9),
    "extras": AttentionForm(0.2, window=40, chunk=37, softcap=1.5),
}


@dataclass(frozen=True)
class Case:
    """Sizes that a kernel is compiled for."""

    dtype: str
    block_size: int
    key_dim: int
    value_dim: int
    num_heads: int

    def __str__(self) -> str:
        return f"{self.dtype}-{self.block_size}-{self.key_dim}:{self.value_dim}-{self.num_heads}"

    def random(self, *shape: int, seed: int) -> torch.Tensor:
        """Normal numbers, rounded to the dtype."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator).to(DTYPES[self.dtype])


CASES = FLOAT32, BFLOAT16, FLOAT16, WIDE = (
    Case("float32", 16, 48, 32, 4),
    Case("bfloat16", 16, 48, 32, 4),
    Case("float16", 16, 48, 32, 4),
    # nothing is rotated; rows are more than registers hold, and no multiple of what they do
    Case("bfloat16", 32, 96, 96, 10),
)
# the others are slow by the kernels that they compile: two for extras, two for the other forms
QUICK = {
    *((case, form) for case in (FLOAT32, WIDE) for form in ("plain", "window")),
    (FLOAT32, "extras"),
}


def make_cache(case: Case, shape: KVShape) -> KVCache:
    """Return memory that holds NaN everywhere."""
    sizes = LAYERS, case.num_heads, 1, case.key_dim, 1, 1
    spec = ModelSpec(*sizes, frozenset(), case.dtype, "", own_kv_shapes=(shape,) * LAYERS)
    cache = KVCache(spec, 64, case.block_size, CPU)
    for kv in cache.tensors:
        kv.fill_(float("nan"))
    return cache


def place(case: Case, cache: KVCache) -> tuple[RaggedInputs, torch.Tensor]:
    """Write what each sequence has computed already; describe the step, and return its keys."""
    deck = torch.randperm(64, generator=torch.Generator().manual_seed(3)).tolist()
    entries, new_keys, size = [], [], case.block_size
    for number, (computed, new) in enumerate(TURNS):
        seq = make_sequence(computed + new, computed=computed)
        seq.block_table = [deck.pop() for _ in range(-(-(computed + new) // size))]
        past, keys = latents_of(case, number).split((computed, new))
        slots = [seq.block_table[i // size] * size + i % size for i in range(computed)]
        cache.blocks.store(LAYER, torch.tensor(slots).long(), past, past[..., : case.value_dim])
        entries.append(BatchEntry(seq, new))
        new_keys.append(keys)
    return RaggedInputs.from_batch(Batch(tuple(entries)), size), torch.cat(new_keys)


def latents_of(case: Case, number: int) -> torch.Tensor:
    """Return the keys [positions, 1, channels] of a sequence, old and new."""
    return case.random(sum(TURNS[number]), 1, case.key_dim, seed=number)


def attend(case: Case, shape: KVShape, form: AttentionForm) -> torch.Tensor:
    """Run TURNS in one step, from blocks that hold latents in a shape; they then hold all of them."""
    cache = make_cache(case, shape)
    inputs, keys = place(case, cache)
    query = case.random(len(keys), case.num_heads, case.key_dim, seed=99)
    backend = select_backend("cpu", cache, case.num_heads)
    backend.begin(on_host(inputs))
    out = backend.attend(LAYER, query, keys, keys[..., : case.value_dim], form)
    for number, table in enumerate(inputs.block_tables):
        latents = latents_of(case, number)
        found, values = cache.by_layer(cache.read(table.tolist(), 0, len(latents)))[LAYER]
        assert torch.equal(found, latents)
        assert torch.equal(values, latents[..., : case.value_dim])
    return out


@has_kernels
@pytest.mark.parametrize(
    ("case", "form"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in QUICK))
        for pair in product(CASES, FORMS)
    ],
    ids=str,
)
def test_latents_give_the_bits_of_keys_and_values_held_apart(case: Case, form: str) -> None:
    sizes = 1, case.key_dim, case.value_dim
    once = attend(case, LatentShape(*sizes), FORMS[form])
    assert once.isfinite().all()
    assert torch.equal(once, attend(case, KVShape(*sizes), FORMS[form]))


@has_kernels
def test_the_kernels_are_tried_before_they_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = AttentionShape("float32", 16, 48, 4, value_dim=32, is_latent=True)
    assert attention_verdict(shape) is None
    from common.engine.attention.cpu import CpuBackend

    right = CpuBackend.attend
    monkeypatch.setattr(CpuBackend, "attend", lambda *args: right(*args) * 1.1)
    assert "differs from torch's" in (attention_verdict(shape) or "")


@pytest.mark.parametrize("storage", ["packed", "pages"])
def test_a_token_of_deepseek_v3_has_576_numbers_in_a_layer(storage: Storage) -> None:
    shapes = (LatentShape(1, 576, 512),) * 2
    spec = ModelSpec(2, 128, 1, 576, 1, 1, frozenset(), "bfloat16", "", own_kv_shapes=shapes)
    cache = KVCache(spec, 3, 16, CPU, storage)
    assert KVCache.block_bytes(spec, 16) == 16 * 2 * 576 * 2
    assert cache.num_bytes == 3 * 16 * 2 * 576 * 2
    assert cache.num_bytes_per_token == 2 * 576 * 2
