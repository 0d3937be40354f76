"""Fields of model types that the general rules do not make small, or not consistent; dots lead into parts."""

from collections.abc import Mapping

_MROPE: dict[str, object] = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "mrope_section": [2, 3, 3],
}
OVERRIDES: Mapping[str, Mapping[str, object]] = {
    "dbrx": {"attn_config.rope_theta": 10000.0},
    "ernie4_5_vl_moe": {"text_config.rope_parameters": _MROPE | {"mrope_section": [3, 3, 2]}},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mamba2": {"num_heads": 8},
    "paddleocr_vl": {"text_config.rope_parameters": _MROPE},
}
