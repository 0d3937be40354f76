"""Tiny random models of every family that has layers with state beside attention."""

import random
from pathlib import Path

from tests.unit.common.engine.tiny_models import VOCAB, save_model

_ENDLESS: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, object] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_LINEAR: dict[str, object] = {"layer_types": ["linear_attention", "full_attention"] * 2}
_GATED_DELTA: dict[str, object] = {
    **_LINEAR,
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT: dict[str, object] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
_MAMBA2: dict[str, object] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 16,
}
HYBRIDS: dict[str, dict[str, object]] = {
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "lfm2_moe": {
        **_EXPERTS,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention", "conv", "conv"],
    },
    "qwen3_next": {**_GATED_DELTA, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": _GATED_DELTA,
    "qwen3_5_moe_text": {**_GATED_DELTA, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "olmo_hybrid": _GATED_DELTA | {"linear_num_value_heads": 2},
    "granitemoehybrid": {
        **_MAMBA2,
        **_LINEAR,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 64,
        "logits_scaling": 4.0,
    },
    "bamba": {**_MAMBA2, "attn_layer_indices": [1, 3]},
    "falcon_h1": {**_MAMBA2, "num_hidden_layers": 2, "mamba_d_ssm": 128},
    "nemotron_h": {
        "layers_block_type": [
            "linear_attention",
            "mlp",
            "full_attention",
            "moe",
            "linear_attention",
        ],
        "head_dim": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 32,
    },
}
HYBRIDS |= {
    # Kimi's delta attention beside latent attention
    "kimi_linear": {
        **_LINEAR,
        **_LATENT,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
    },
    # scans that go on from a state
    "jamba": {
        **_EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    # scans of several heads, and two layers that share one module of attention
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        # heads of 16 channels
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "n_mamba_heads": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "tie_word_embeddings": True,
    },
    # shared attention beside Mamba 2
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_key_value_heads": 4,
        "n_mamba_heads": 8,
        "mamba_d_state": 8,
        "mamba_ngroups": 2,
        "chunk_size": 16,
        "tie_word_embeddings": True,
    },
    # no layer of attention
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 16},
    # projections of attention that keep a state
    "zaya": {
        "layer_types": ["hybrid", "hybrid_sliding"] * 2,
        "head_dim": 16,
        "sliding_window": 8,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "router_hidden_size": 16,
    },
    # caches of their own
    "minimax": {**_LINEAR, "head_dim": 16, "block_size": 16, "num_local_experts": 4},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "lru_width": 64,
        "attention_window_size": 8,
    },
    "rwkv": {"rescale_every": 2},
    "xlstm": {
        "hidden_size": 128,
        "num_heads": 4,
        "chunk_size": 16,
    },
}
PROMPTS = [random.Random(n).choices(range(VOCAB), k=n) for n in (5, 70, 1, 300)]


def save_hybrid(folder: Path, family: str, **changes: object) -> Path:
    """Write config.json and model.safetensors of a random hybrid; the same one every time."""
    return save_model(folder, family, **(_ENDLESS | HYBRIDS[family] | changes))
