"""Quantized GGUF files that are kept as they are: the numbers of `transformers`, in the size of the file."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.cpu.target import host_target
from common.engine.fused.cpu_ops import CpuOps
from common.engine.kernel_checks.verdicts import trusted_products
from common.engine.memory.host_budget import HostRoom
from common.engine.memory.worker_share import WorkerShare
from common.engine.ragged import RaggedInputs
from common.engine.weights.gguf_index import is_kept
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from common.engine.weights.size import loading_bytes, weights_bytes
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import continue_greedily, engine_config, make_engine
from tests.unit.common.engine.weights.quantized_gguf import (
    ATTENTION_FACTOR,
    ORIGINAL_TOKENS,
    QuantizedGguf,
    write_quantized,
)
from tests.unit.common.engine.weights.tiny_gguf import VOCABULARY

PROMPTS = [random.Random(n).choices(range(3, VOCABULARY), k=n) for n in (20, 3, 37)]
NEW_TOKENS = 8
# llama.cpp's mixture: values and half of the layers' second products are finer
Q4_K_M = {"attn_v.weight": "Q6_K", "blk.0.ffn_down.weight": "Q6_K", "token_embd.weight": "Q6_K"}
MODELS = {
    "Q8_0": QuantizedGguf(kind="Q8_0"),
    "Q4_0": QuantizedGguf(kind="Q4_0", is_tied=False),
    "Q4_1": QuantizedGguf(kind="Q4_1"),
    "Q4_K_M": QuantizedGguf(kind="Q4_K", kinds=Q4_K_M),
    "Q5_K with a head of its own": QuantizedGguf(
        kind="Q5_K", kinds={"output.weight": "Q6_K", "ffn_up.weight": "Q4_K"}, is_tied=False
    ),
    "plain embedding": QuantizedGguf(kind="Q8_0", kinds={"token_embd.weight": "F16"}),
    "qwen2": QuantizedGguf("qwen2", kind="Q5_0", kinds={"attn_v.weight": "Q8_0"}),
    "qwen3": QuantizedGguf("qwen3", kind="Q4_0", num_heads=2, num_kv_heads=1),
    "phi3": QuantizedGguf("phi3", kind="Q4_K", kinds={"attn_qkv.weight": "Q5_K"}),
    "gemma3": QuantizedGguf("gemma3", kind="Q4_0", kinds={"token_embd.weight": "Q8_0"}),
}
has_kernels = pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here")


def write(folder: Path, model: QuantizedGguf) -> Path:
    return write_quantized(folder / "tiny.gguf", model)


def resolved(gguf: Path, *, keep: bool = True) -> ModelSource:
    return resolve_model(str(gguf), gguf.parent / "cache", NoProgress(), keep_quantized=keep)


def config(**changes: str | int) -> EngineConfig:
    return engine_config(num_blocks=128).model_copy(update=changes)


def reference_of(gguf: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.generation_config.eos_token_id = None
    return model.eval()


def reference_tokens(gguf: Path) -> list[list[int]]:
    model = reference_of(gguf)
    tokens = [continue_greedily(model, prompt, NEW_TOKENS) for prompt in PROMPTS]
    assert len({token for each in tokens for token in each}) > 3, "not lively"
    return tokens


def weights_of(engine: Engine) -> Any:
    decoder: Any = engine.runner._model
    return decoder.weights


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    gguf = write(tmp_path, MODELS[name])
    source = resolved(gguf)
    assert is_kept(source.path)
    assert not source.remark
    engine = make_engine(source.path, config())
    assert continuations(engine, PROMPTS, NEW_TOKENS, 16) == reference_tokens(gguf)
    assert weights_of(engine).layers[0].qkv.scales is not None


def test_longrope_of_phi3_goes_into_the_configuration(tmp_path: Path) -> None:
    """The first 16 of 32 channels are turned, as in Phi-4-mini three quarters."""
    factors = {"short": (1.0,) * 8, "long": (4.0,) * 4 + (9.0,) * 4}
    gguf = write(tmp_path, QuantizedGguf("phi3", kind="Q4_K", long_rope=factors))
    folder = resolved(gguf).path
    assert is_kept(folder)
    written = AutoConfig.from_pretrained(folder)
    assert written.rope_parameters == {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
        "short_factor": list(factors["short"]),
        "long_factor": list(factors["long"]),
        "original_max_position_embeddings": ORIGINAL_TOKENS,
        "attention_factor": ATTENTION_FACTOR,
    }
    model, text = reference_of(gguf), PROMPTS[2] * 3
    model.model.rotary_emb = Phi3RotaryEmbedding(written)
    expected = [continue_greedily(model, text, NEW_TOKENS)]
    engine = make_engine(folder, config(max_context_tokens=2 * ORIGINAL_TOKENS))
    assert continuations(engine, [text], NEW_TOKENS, 50) == expected


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mixed"), MODELS["Q4_K_M"])


@has_kernels
def test_logits_are_those_of_transformers(mixed: Path) -> None:
    model = reference_of(mixed)
    engine = make_engine(resolved(mixed).path, config())
    seq = make_sequence(PROMPTS[2])
    hold(engine.pool, seq)
    inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, len(PROMPTS[2])),)), 16)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[2]])).logits[0, -1]
    error = (engine.runner.logits(inputs)[0] - expected).norm() / expected.norm()
    # products of bytes round activations to 16 bits (docs/design/cpu-kernels.md)
    assert error <= (1e-5 if host_target().integer_dot == "none" else 1e-4)


@has_kernels
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q4_K_M"])
def test_the_weights_in_memory_are_as_large_as_they_are_counted(tmp_path: Path, name: str) -> None:
    """The embedding, which is the head too except in Q4_0, is held once."""
    gguf = write(tmp_path, MODELS[name])
    source = resolved(gguf)
    held = sum(tensor.nbytes for tensor in tensors_of(make_engine(source.path, config())))
    assert held == pytest.approx(weights_bytes(source.path, "float32"), rel=0.01)
    assert held < (1.02 if name in ("Q8_0", "Q4_0", "Q4_1") else 1.25) * gguf.stat().st_size
    assert held < loading_bytes(source.path, "float32") < 1.2 * held


def tensors_of(engine: Engine) -> list[torch.Tensor]:
    """Return all tensors of a decoder's weights, each once."""
    found: dict[int, torch.Tensor] = {}

    def visit(part: object) -> None:
        if isinstance(part, torch.Tensor):
            found[part.data_ptr()] = part
        elif isinstance(part, tuple):
            for one in part:
                visit(one)
        elif dataclasses.is_dataclass(part):
            for field in dataclasses.fields(part):
                visit(getattr(part, field.name))

    visit(weights_of(engine))
    return list(found.values())


def test_workers_tell_the_form_by_dtype_and_fingerprint(mixed: Path) -> None:
    spec = make_engine(resolved(mixed).path, config()).spec
    assert spec.stored_as == "float32/q4_k"
    assert spec.fingerprint.endswith("-float32-q4_k")
    full = make_engine(resolved(mixed, keep=False).path, config()).spec
    assert full.stored_as == "float32"


@has_kernels
def test_kernels_that_are_wrong_leave_the_same_numbers_to_torch(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted_products.cache_clear()
    folder = resolved(mixed).path
    with monkeypatch.context() as spoiled:
        spoiled.setattr(CpuOps, "rotate", lambda self, x, heads, cos, sin: x.zero_())
        counted = HostRoom.read(folder, config(), WorkerShare()).fixed_bytes
        engine = make_engine(folder, config())
    trusted_products.cache_clear()
    assert weights_of(engine).layers[0].qkv.weight.dtype == torch.float32
    # in full width, and so they are counted
    held = sum(tensor.nbytes for tensor in tensors_of(engine))
    less = HostRoom.read(folder, config(), WorkerShare()).fixed_bytes
    assert held <= counted - less + loading_bytes(folder, "float32") < 1.2 * held
    assert continuations(engine, PROMPTS, NEW_TOKENS, 16) == reference_tokens(mixed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization": "none"}, "engine.quantization is none"),
        ({"quantization": "int8"}, "engine.quantization is int8"),
        ({"fusion": "off"}, "engine.fusion is off"),
    ],
)
def test_a_worker_that_wants_other_weights_is_refused(
    mixed: Path, changes: dict[str, str], words: str
) -> None:
    folder = resolved(mixed).path
    with pytest.raises(SetupError) as caught:
        make_engine(folder, config(**changes))
    assert f"keeps the quantized weights of a GGUF file, and {words}" in str(caught.value)
