"""Engines with keys and values of 8 bits: near full ones, the same bits in every step, or a refusal."""

import random
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from common.config import Backend, EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.cpu.target import host_target
from common.engine.kernel_checks.verdicts import AttentionShape, attention_verdict
from common.engine.memory.host_swap import HostSwap
from common.engine.memory.quantized_kv import LEVELS
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.test_same_bits import assert_same_bits, every_logits
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, make_engine, save_model

PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (20, 3, 70)]
NEW_TOKENS = 6
has_kernels = pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")


def int8_config(**changes: object) -> EngineConfig:
    fields = {"kv_cache_dtype": "int8", "num_blocks": 192} | changes
    return engine_config(**fields)  # type: ignore[arg-type]


# without a GPU the reference backend alone reads it
FP8 = {"kv_cache_dtype": "fp8", "backend": "reference"}


def config_of(form: str) -> EngineConfig:
    return int8_config(**FP8) if form == "fp8" else int8_config()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@has_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_have_the_same_bits_in_every_step(llama: Path, dtype: str) -> None:
    assert_same_bits(make_engine(llama, int8_config(dtype=dtype)))


@pytest.mark.parametrize("family", ["llama", "gemma4_text", "deepseek_v3", "flint"])
def test_both_backends_agree_and_stay_near_full_precision(tmp_path: Path, family: str) -> None:
    """A fused family, layers that differ, latents, sinks."""
    folder = save_model(tmp_path, family)
    full = every_logits(make_engine(folder, engine_config(num_blocks=192)), [40, 1, 1], None)
    cpu, reference, fp8 = (
        every_logits(make_engine(folder, int8_config(**changes)), [40, 1, 1], None)
        for changes in ({"backend": "cpu"}, {"backend": "reference"}, FP8)
    )
    assert not torch.equal(cpu, full)
    assert float((fp8 - cpu).norm() / cpu.norm()) > 1e-3
    for ours, theirs, limit in ((cpu, reference, 1e-3), (cpu, full, 0.1), (fp8, full, 0.2)):
        assert float((ours - theirs).norm() / theirs.norm()) < limit


@pytest.mark.parametrize("form", LEVELS)
def test_half_the_bytes_hold_twice_the_blocks(llama: Path, form: str) -> None:
    """A head of 16 channels takes 20 bytes, and 64 in float32."""
    full, small = (make_engine(llama, config) for config in (engine_config(), config_of(form)))
    assert full.spec.kv_bytes_per_token(4) == 2 * 2 * 2 * 64
    assert small.cache.num_bytes_per_token == 2 * 2 * 2 * 20
    assert small.pool.num_blocks == int(192.5 * 64 / 20)
    assert small.cache.num_bytes == small.pool.num_blocks * 16 * 2 * 2 * 2 * 20
    assert small.spec.fingerprint == f"{full.spec.fingerprint}-kv-{form}"
    assert small.spec.stored_as == f"float32+kv-{form}"


@pytest.mark.parametrize("changes", [{"backend": "cpu"}, {"backend": "reference"}, FP8])
def test_kv_that_waited_in_host_memory_has_the_same_bits(
    llama: Path, changes: dict[str, object]
) -> None:
    engine = make_engine(llama, int8_config(**changes))
    seq = hold(engine.pool, make_sequence(PROMPTS[2]))
    engine.runner.run(Batch((BatchEntry(seq, 39),)))
    seq.num_computed_tokens = 39
    before = engine.cache.read(seq.block_table, 0, 39)
    swap = HostSwap(engine.cache, engine.prefix, 2**30, engine.costs, lambda: 2**30)
    assert swap.save(seq)
    assert swap.num_bytes == 39 * 2 * 2 * 2 * 20
    seq.block_table = seq.block_table[:1] + engine.pool.allocate(len(seq.block_table) - 1)
    seq.num_computed_tokens = 16
    swap.restore(seq)
    assert torch.equal(engine.cache.read(seq.block_table, 0, 39), before)


@has_kernels
def test_the_kernels_are_tried_before_they_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = AttentionShape("float32", 16, 16, 2, kv_quantization="int8")
    assert attention_verdict(shape) is None
    from common.engine.attention.cpu import CpuBackend

    right = CpuBackend.attend
    monkeypatch.setattr(CpuBackend, "attend", lambda *args: right(*args) * 1.001)
    assert "differs from torch's" in (attention_verdict(shape) or "")


@pytest.mark.parametrize("form", LEVELS)
def test_tokens_do_not_depend_on_neighbours_or_chunks(llama: Path, form: str) -> None:
    engine = make_engine(llama, config_of(form))
    together = continuations(engine, PROMPTS, NEW_TOKENS, 16)
    assert together == [continuations(engine, [p], NEW_TOKENS, 64)[0] for p in PROMPTS]


def refusal_of(folder: Path, config: EngineConfig) -> str:
    with pytest.raises(SetupError) as caught:
        make_engine(folder, config)
    return str(caught.value)


def test_a_gpu_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert refusal_of(tmp_path / "missing", int8_config(device="auto")) == (
        "engine.kv_cache_dtype int8 works on a CPU alone. set it to fp8 or auto"
    )


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_fp8_is_refused_on_a_cpu_before_anything_is_read(tmp_path: Path, backend: Backend) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = int8_config(kv_cache_dtype="fp8", backend=backend, device="auto")
    assert refusal_of(tmp_path / "missing", config) == (
        "engine.kv_cache_dtype fp8 is for a GPU. set it to int8; to try fp8 without a GPU, set "
        "engine.attention_backend to reference"
    )


def test_keys_that_hold_biases_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_model(
        tmp_path,
        "falcon",
        vocab_size=VOCAB,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=True,
        multi_query=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    assert refusal_of(folder, int8_config()) == (
        "engine.kv_cache_dtype int8 would round the ALiBi biases that this model's keys hold. "
        "set it to auto"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kv_cache_dtype": "fp8_e5m2"}, "fp8_e5m2 is not supported; fp8 is E4M3"),
        ({"kv_cache_dtype": "int4"}, "'auto', 'int8' or 'fp8'"),
        ({"kv_cache_dtype": "fp8", "device": "cpu"}, "kv_cache_dtype: fp8 is for a GPU; set it to"),
        (
            {"kv_cache_dtype": "int8", "device": "cuda"},
            "kv_cache_dtype: int8 does not go with device: cuda; take fp8",
        ),
    ],
)
def test_a_bad_setting_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EngineConfig.model_validate(values)
    assert words in str(caught.value)
