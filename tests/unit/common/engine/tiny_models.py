"""Folders with tiny random models of real families: quick to build, lively enough to tell tokens apart."""

import json
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from common.config import Backend, EngineConfig
from common.engine.build import Engine, build_engine
from common.engine.memory.kv_cache import KVCache

VOCAB = 101
_SHAPE: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
# multi-head latent attention: keys of 32 channels, values of 16
_LATENT: dict[str, object] = {
    **{name: value for name, value in _SHAPE.items() if name != "head_dim"},
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
_LATENT_MOE: dict[str, object] = {
    **_LATENT,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_EXPERTS: dict[str, object] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LOCAL_AND_GLOBAL: dict[str, object] = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
_GPT: dict[str, object] = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES: dict[str, dict[str, object]] = {
    "deepseek_v2": {**_LATENT_MOE, "topk_method": "greedy"},
    "deepseek_v3": _LATENT_MOE,
    "minicpm3": _LATENT,
    "glm4_moe_lite": _LATENT_MOE,
    # heads of 16 channels in local layers, of 32 in global ones
    "gemma4_text": {
        **_SHAPE,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 16,
    },
    "llama": _SHAPE,
    "qwen2": _SHAPE,
    "mistral": {**_SHAPE, "sliding_window": 8},
    "qwen3": _SHAPE,
    "phi3": {**_SHAPE, "partial_rotary_factor": 0.5},
    "gemma3_text": {
        **_SHAPE,
        **_LOCAL_AND_GLOBAL,
        "query_pre_attn_scalar": 16,
    },
    "gemma2": {**_SHAPE, "sliding_window": 8},
    "gpt2": {**_GPT, "tie_word_embeddings": False},
    "gpt_neox": {k: v for k, v in _SHAPE.items() if k not in ("num_key_value_heads", "head_dim")},
    "gpt_oss": {**_SHAPE, **_EXPERTS, **_LOCAL_AND_GLOBAL},
    "granite_swa": {**_SHAPE, **_LOCAL_AND_GLOBAL},
    "granitemoe_swa": {**_SHAPE, **_EXPERTS, **_LOCAL_AND_GLOBAL},
    "flint": {**_SHAPE, **_LOCAL_AND_GLOBAL},
    "vaultgemma": {**_SHAPE, "sliding_window": 8, "attn_logit_softcapping": 2.0},
    "llama4_text": {
        **_SHAPE,
        **_EXPERTS,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 128,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 24,
        "no_rope_layers": [1, 0],
        # queries are scaled from position 9 on
        "floor_scale": 10,
        "attn_scale": 0.5,
    },
    "qwen2_moe": {
        **_SHAPE,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    "mimo_v2_flash": {
        **_SHAPE,
        # with one KV head, and two in local layers
        "num_attention_heads": 2,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
        "num_key_value_heads": 1,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
    },
    "bloom": {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 4,
        "seq_length": 512,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": False,
    },
    "mpt": {
        "vocab_size": VOCAB,
        "d_model": 96,
        "n_layers": 2,
        "n_heads": 6,
        "max_seq_len": 512,
        "tie_word_embeddings": False,
    },
    "phimoe": {**_SHAPE, **_EXPERTS, "sliding_window": 8},
    "gpt_bigcode": _GPT,
}
_KV_BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 4  # of the llama shape in float32


def save_model(folder: Path, family: str, **changes: object) -> Path:
    """Write config.json and model.safetensors of a random model of `family`; the same one every time."""
    model = _saved(family, json.dumps(changes))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model.files.items():
        (folder / name).write_bytes(content)
    torch.set_rng_state(model.state_behind)
    return folder


@dataclass(frozen=True, slots=True)
class _Saved:
    """Files of a random model, and the state in which drawing it leaves torch's generator."""

    files: dict[str, bytes]
    state_behind: torch.Tensor


@lru_cache(maxsize=64)  # a test file asks for few models, many times
def _saved(family: str, changes: str) -> _Saved:
    # a process that only runs a model that is there need not import it
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(FAMILIES.get(family, {}) | json.loads(changes)))
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        # the families' own initialisation is so small that every next token is the same
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        # sinks are scores, and scores are of that size
        std = 40.0 if name.endswith("sinks") else 0.4
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=std)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return _Saved(files, torch.get_rng_state())


def load_reference(folder: Path) -> Any:
    """Load the model as `transformers` runs it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def continue_greedily(reference: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Return the tokens that `transformers` generates."""
    ids = torch.tensor([prompt])
    output = reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def engine_config(
    *, num_blocks: int = 64, block_size: int = 16, backend: Backend = "auto", **changes: object
) -> EngineConfig:
    """Configure float32 on the CPU, with so many blocks of the llama shape."""
    fields: dict[str, object] = {
        "dtype": "float32",
        "device": "cpu",
        "attention_backend": backend,
        "block_size": block_size,
        # half a block more, since the count is rounded down
        "kv_cache_gib": (num_blocks + 0.5) * block_size * _KV_BYTES_PER_TOKEN / 2**30,
    }
    return EngineConfig.model_validate(fields | changes)


def kv_bytes(config: EngineConfig) -> float:
    """Return the bytes of KV memory that a configuration asks for."""
    assert config.kv_cache_gib != "auto"
    return config.kv_cache_gib * 2**30


def make_engine(folder: Path, config: EngineConfig) -> Engine:
    """Build an engine with one thread, so that tests share the cores."""
    return build_engine(folder, config, num_threads=1)


def poison(engine: Engine) -> None:
    """Fill all KV memory with NaN: a read of unwritten memory then shows.

    All bits set are NaN in every dtype, and as the scale of 8-bit numbers.
    """
    cache: KVCache = engine.cache
    for kv in cache.tensors:
        kv.view(torch.uint8).fill_(0xFF)
