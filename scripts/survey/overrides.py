"""Fields of model types that the general rules do not make small, or not consistent; dots lead into parts."""

from collections.abc import Mapping

from scripts.survey.fields import CONTEXT

_MROPE: dict[str, object] = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "mrope_section": [2, 3, 3],
}
# nothing is left out of a context as short as this
_ALL: dict[str, object] = {"index_topk": CONTEXT}
OVERRIDES: Mapping[str, Mapping[str, object]] = {
    "axk2": _ALL,
    "bamba": {"attn_layer_indices": [1]},
    # real ones have the number, which the default lacks
    "bloom": {"seq_length": CONTEXT},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_v32": _ALL,
    "dots3_note_text": _ALL,
    "ernie4_5_vl_moe": {"text_config.rope_parameters": _MROPE | {"mrope_section": [3, 3, 2]}},
    "glm5_next": {"text_config.index_topk": CONTEXT},
    "glm_moe_dsa": _ALL,
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "num_hidden_layers": 2,
    },
    # each layer runs in eight cycles
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "hy_v4": _ALL,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mamba2": {"num_heads": 8},
    "mistral_large4": {"text_config.index_topk": CONTEXT},
    # its window is the context, and its modules apply none
    "moshi": {"sliding_window": CONTEXT},
    "paddleocr_vl": {"text_config.rope_parameters": _MROPE},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba": {
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "zamba2": {"attention_hidden_size": 128},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
}
