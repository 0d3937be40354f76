"""A llama of one layer as a GGUF file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType, quantize

DIM, FEED_FORWARD, VOCABULARY = 32, 64, 64
Q8 = GGMLQuantizationType.Q8_0
SPECIAL = ["<unk>", "<s>", "</s>"]
# Every printable character from "!" on, so that any such text has tokens.
TOKENS = [*SPECIAL, "Ġ", "ĠĠ", *(chr(ord("!") + i) for i in range(VOCABULARY - 5))]
TOKEN_TYPES = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (VOCABULARY - 3)

Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


@dataclass(frozen=True)
class GgufOptions:
    """Options that spoil or extend the tiny llama."""

    leave_out: str = ""  # a tensor
    rope_scaling: str = ""
    end_of_turn: int | None = None
    quantize: bool = False
    architecture: str = "llama"
    frequency_divisor: float = 0.0  # of every second rotary frequency; 0: no such tensor


def random_tensors() -> Tensors:
    """Every weight of the tiny llama by its GGUF name, each with its own values."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, DIM),
        "output_norm.weight": (DIM,),
        "blk.0.attn_norm.weight": (DIM,),
        "blk.0.ffn_norm.weight": (DIM,),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, DIM),
        "blk.0.ffn_up.weight": (FEED_FORWARD, DIM),
        "blk.0.ffn_down.weight": (DIM, FEED_FORWARD),
    }
    shapes |= {f"blk.0.attn_{name}.weight": (DIM, DIM) for name in ("q", "k", "v", "output")}
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_gguf(path: Path, tensors: Tensors, options: GgufOptions) -> None:
    writer = GGUFWriter(path, options.architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(DIM)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    if options.rope_scaling:
        writer.add_string(f"{options.architecture}.rope.scaling.type", options.rope_scaling)
    add_tokenizer(writer, options)
    for name, values in tensors.items():
        if name == options.leave_out:
            continue
        if options.quantize and values.ndim == 2:
            writer.add_tensor(name, quantize(values, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(name, values)
    if options.frequency_divisor:
        divisors = np.ones(DIM // 4, np.float32)
        divisors[1::2] = options.frequency_divisor
        writer.add_tensor("rope_freqs.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_parts(folder: Path, tensors: Tensors, count: int) -> list[Path]:
    """Write the tiny llama in `count` files, as llama.cpp splits: the first one has the metadata."""
    whole = folder / "whole.gguf"
    write_gguf(whole, tensors, GgufOptions())
    writer = GGUFWriter(folder / "tiny.gguf", "llama", split_max_tensors=-(-len(tensors) // count))
    copy_metadata(whole, writer)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole.unlink()
    return sorted(folder.glob("tiny-*.gguf"))


def copy_metadata(file: Path, writer: GGUFWriter) -> None:
    for name, field in GGUFReader(file).fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)


def add_tokenizer(writer: GGUFWriter, options: GgufOptions) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types(TOKEN_TYPES)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if options.end_of_turn is not None:
        writer.add_eot_token_id(options.end_of_turn)
