"""GGUF files of the default model, quantized by the `gguf` package; llama.cpp reads them too.

Usage: python -m benchmarks.gguf_file OUT.gguf [--kind Q4_0]

The weights are those of the converted default model, which was Q4_1 before.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import gguf
import numpy as np
import typer
from safetensors import safe_open

from common.cache_dir import default_cache_dir
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.engine.weights.stored import weight_files

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PRE_TOKENIZER = "smollm"  # llama.cpp's name of the default model's


def main(
    out: Annotated[Path, typer.Argument(help="File to write")],
    kind: Annotated[str, typer.Option(help="Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1")] = "Q4_0",
) -> None:
    """Write the default model with all weights of products in one type."""
    folder = resolve_model(DEFAULT_ALIAS, default_cache_dir(), NoProgress()).path
    write_llama(folder, out, gguf.GGMLQuantizationType[kind])
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


def write_llama(folder: Path, out: Path, kind: gguf.GGMLQuantizationType) -> None:
    """Write a folder's Llama, whose tokenizer is byte-level BPE, as a GGUF file."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    _add_numbers(writer, config)
    _add_tokenizer(writer, folder, config)
    for file in weight_files(folder):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                _add_tensor(writer, name, tensors.get_tensor(name), config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_numbers(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(config["rope_parameters"]["rope_theta"]))
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"])
    types = dict.fromkeys(ids, gguf.TokenType.NORMAL)
    for added in tokenizer["added_tokens"]:
        is_special = added["special"]
        ids[added["content"]] = added["id"]
        types[added["content"]] = (
            gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED
        )
    tokens = sorted(ids, key=ids.__getitem__)
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([types[token] for token in tokens])
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    ends = config["eos_token_id"]
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(ends[0] if isinstance(ends, list) else ends)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text())


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    values: np.ndarray[Any, np.dtype[np.float32]],
    config: dict[str, Any],
    kind: gguf.GGMLQuantizationType,
) -> None:
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        stored = f"blk.{number}.{_NAMES[part]}"
    else:
        stored = _NAMES[stem]
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    if key := heads.get(stored.rpartition(".")[2]):
        # llama.cpp's rotary pairs neighbours, not the halves of a head
        pairs = values.reshape(config[key], 2, -1, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    if values.ndim == 1:
        writer.add_tensor(f"{stored}.{suffix}", values)
    else:
        writer.add_tensor(f"{stored}.{suffix}", gguf.quantize(values, kind), raw_dtype=kind)


if __name__ == "__main__":
    typer.run(main)
