"""Tiny models of two layers as quantized GGUF files, wide enough for blocks of 256 numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from common.engine.weights.gguf_blocks import BLOCK_TYPES
from tests.unit.common.engine.weights.tiny_gguf import VOCABULARY, GgufOptions, add_tokenizer

DIM, FEED_FORWARD, LAYERS = 256, 512, 2
ORIGINAL_TOKENS, ATTENTION_FACTOR = 64, 1.25  # of LongRoPE
_STD = 0.08  # of weights: lively, and without overflow

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Blocks = np.ndarray[tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True)
class QuantizedGguf:
    """Model as a file: its architecture, and the type of each weight by the end of its name."""

    architecture: str = "llama"
    kind: str = "Q8_0"  # of all weights that `kinds` does not name
    kinds: Mapping[str, str] = field(default_factory=dict)
    is_tied: bool = True
    # of 32 channels, for which other tests compile attention too
    num_heads: int = 8
    num_kv_heads: int = 4
    long_rope: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # "short", "long"

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return DIM // self.num_heads

    def kind_of(self, name: str) -> str:
        """Return the type of the tensor of this name."""
        named = (kind for end, kind in self.kinds.items() if name.endswith(end))
        return next(named, self.kind)


def write_quantized(path: Path, model: QuantizedGguf) -> Path:
    """Write the model with random weights, the same at every call."""
    writer = GGUFWriter(path, model.architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    if model.architecture == "gemma3":
        writer.add_sliding_window(16)
    add_tokenizer(writer, GgufOptions())
    if model.architecture == "phi3":
        writer.add_pad_token_id(0)  # transformers' own is far beyond the vocabulary
    if model.long_rope:
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL_TOKENS)
        writer.add_rope_scaling_attn_factors(ATTENTION_FACTOR)
    for name, factors in model.long_rope.items():
        writer.add_tensor(f"rope_factors_{name}.weight", np.array(factors, np.float32))
    random = np.random.default_rng(5)
    for name, shape in _shapes(model).items():
        if len(shape) == 1:
            mean = 1.0 if name.endswith("norm.weight") else 0.0
            writer.add_tensor(name, random.normal(mean, 0.1, shape).astype(np.float32))
            continue
        kind = GGMLQuantizationType[model.kind_of(name)]
        # Gemma multiplies its embedding by 16: each token would call for itself
        is_small = model.architecture == "gemma3" and name.startswith("token_embd")
        values = random.normal(0, _STD / (16 if is_small else 1), shape).astype(np.float32)
        writer.add_tensor(name, quantized(values, kind.name, random), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized(values: Array, kind: str, random: np.random.Generator) -> Blocks:
    """Return values as blocks; of the types that `gguf` cannot make, random ones of the same spread."""
    if not kind.endswith("_K"):
        made: Blocks = quantize(values, GGMLQuantizationType[kind])
        return made
    block = BLOCK_TYPES[kind]
    count = values.size // block.numbers
    blocks = random.integers(0, 256, (count, block.num_bytes), np.uint8)
    # float16 scales lie at the end of Q6_K's blocks, else at the beginning, with those of minima
    signs = random.choice([-1.0, 1.0], (count, 2 if block.form.has_offsets else 1))
    largest = {"Q4_K": 16 * 64, "Q5_K": 32 * 64, "Q6_K": 32 * 128}[kind]
    scales = (3 * _STD / largest * signs).astype(np.float16)
    if block.form.has_offsets:
        # so that the minimum is about half of the range
        scales[:, 1] = np.abs(scales[:, 0]) * np.sign(scales[:, 0]) * (largest / 64 / 2)
    first = block.num_bytes - 2 if kind == "Q6_K" else 0
    raw = scales.view(np.uint8)
    blocks[:, first : first + raw.shape[1]] = raw
    return blocks.reshape(values.shape[0], -1)


def _shapes(model: QuantizedGguf) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, DIM),
        "output_norm.weight": (DIM,),
    }
    if not model.is_tied:
        shapes["output.weight"] = (VOCABULARY, DIM)
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _layer(model).items()}
    return shapes


def _layer(model: QuantizedGguf) -> dict[str, tuple[int, ...]]:
    keys, head_dim = model.num_kv_heads * model.head_dim, model.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (DIM,),
        "ffn_norm.weight": (DIM,),
        "attn_output.weight": (DIM, DIM),
        "ffn_down.weight": (DIM, FEED_FORWARD),
    }
    if model.architecture == "phi3":
        merged = {
            "attn_qkv.weight": (DIM + 2 * keys, DIM),
            "ffn_up.weight": (2 * FEED_FORWARD, DIM),
        }
        return shapes | merged
    shapes |= {"ffn_gate.weight": (FEED_FORWARD, DIM), "ffn_up.weight": (FEED_FORWARD, DIM)}
    for name, rows in (("q", DIM), ("k", keys), ("v", keys)):
        shapes[f"attn_{name}.weight"] = (rows, DIM)
        if model.architecture == "qwen2":
            shapes[f"attn_{name}.bias"] = (rows,)
    if model.architecture in ("qwen3", "gemma3"):
        shapes |= {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
    if model.architecture == "gemma3":
        shapes |= {"post_attention_norm.weight": (DIM,), "post_ffw_norm.weight": (DIM,)}
    return shapes
