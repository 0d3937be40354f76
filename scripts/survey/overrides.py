"""Fields of model types that the general rules do not make small, or not consistent; dots lead into parts."""

from collections.abc import Mapping

from scripts.survey.fields import CONTEXT, EOS

_MROPE: dict[str, object] = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "mrope_section": [2, 3, 3],
}
# layers with a window are turned, and others are not
_BY_KIND: dict[str, object] = {
    "sliding_attention": _MROPE | {"mrope_section": [4, 2, 2]},
    "full_attention": None,
}
_BOTH_KINDS = ["sliding_attention", "full_attention"]
# nothing is left out of a context as short as this
_ALL: dict[str, object] = {"index_topk": CONTEXT}
_QSA: dict[str, object] = {
    "layer_types": ["linear_attention", "indexed_attention"],
    "num_hidden_layers": 2,
    "ple_layer_ids": [1],
    "eos_token_id": EOS,
    "ngram_vocab_size_base": 128,
    "split_ngram_parts": 2,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": CONTEXT,
    "indexer_compress_ratio": 4,
}
_IMAGES = {"<image>": 90, "IMGIMGAZ": 91, "<|visual token 000000|>": 92, "<|extra_200|>": 93}
OVERRIDES: Mapping[str, Mapping[str, object]] = {
    "axk2": _ALL,
    "bamba": {"attn_layer_indices": [1]},
    # real ones have the number, which the default lacks
    "bloom": {"seq_length": CONTEXT},
    "blt": {f"{part}_config.hidden_size_global": 64 for part in ("encoder", "decoder")},
    "chameleon": {"vocabulary_map": _IMAGES},
    "cohere_compass": {
        "text_config.rope_parameters": _BY_KIND,
        "text_config.layer_types": _BOTH_KINDS,
    },
    "cohere_compass_text": {"rope_parameters": _BY_KIND, "layer_types": _BOTH_KINDS},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"]},
    "deepseek_v32": _ALL,
    "dots3_note": {
        "vision_config.adapter_in_dim": 64,
        "vision_config.adapter_out_dim": 64,
        "vision_config.num_hidden_layers": 1,
        "vision_config.mlp_layer_types": ["dense"],
        "vision_config.per_layer_config": {},
        "audio_config.adapter_input_size": 64,
        "audio_config.downsample_hidden_size": 64,
        "audio_config.adapter_out_dim": 64,
        "text_config.index_topk": CONTEXT,
    },
    "dots3_note_text": _ALL,
    "emu3": {
        "vocabulary_map": _IMAGES,
        "vq_config.base_channels": 32,
        "vq_config.hidden_size": 128,
    },
    "ernie4_5_vl_moe": {"text_config.rope_parameters": _MROPE | {"mrope_section": [3, 3, 2]}},
    "fun_asr_nano": {"adaptor_config.intermediate_size": 16},
    "glm5_next": {"text_config.index_topk": CONTEXT},
    "glm_moe_dsa": _ALL,
    "granite4_vision": {
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "num_hidden_layers": 2,
    },
    # each layer runs in eight cycles
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "hy_v4": _ALL,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "janus": {"vq_config.base_channels": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mamba2": {"num_heads": 8},
    "mistral_large4": {"text_config.index_topk": CONTEXT},
    "molmo2": {"adapter_config.vision_feature_layer": [0, 0]},
    # its window is the context, and its modules apply none
    "moshi": {"sliding_window": CONTEXT},
    "muse_spark": {"audio_config.hidden_sizes": [16, 16, 16, 16]},
    "nemotron_h_omni": {"vision_config.video_temporal_patch_size": 2},
    "paddleocr_vl": {"text_config.rope_parameters": _MROPE},
    "perception_lm": {"vision_config.model_args": {"embed_dim": 64}},
    "qwen2_5_omni": {"enable_audio_output": False},
    "qwen3_omni_moe": {"enable_audio_output": False},
    "qwen4_exp": {f"text_config.{name}": value for name, value in _QSA.items()},
    "qwen4_exp_text": _QSA,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": [32, 32]},
    # layers with a window have more query heads, and rotate more of each
    "step3p7": {
        "text_config.layer_types": _BOTH_KINDS,
        "text_config.sliding_window": 8,
        "text_config.num_sliding_attention_heads": 8,
        "text_config.per_layer_config": {0: {"num_attention_heads": 8}},
        "text_config.rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": _MROPE | {"partial_rotary_factor": 0.5},
        },
    },
    "vibevoice_asr": {
        f"{part}_tokenizer_encoder_config.num_filters": 2 for part in ("acoustic", "semantic")
    },
    "zamba": {
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "zamba2": {"attention_hidden_size": 128},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
}
