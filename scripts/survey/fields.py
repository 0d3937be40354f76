"""Sizes of tiny models by the names that configurations give them."""

from collections.abc import Mapping

VOCAB = 128
CONTEXT = 512


def _named(size: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), size)


# A field of one of these names gets its size where its default is larger.
SIZES: Mapping[str, int] = {
    **_named(
        VOCAB,
        "vocab_size unpadded_vocab_size decoder_vocab_size vocab_size_per_layer_input "
        "codebook_vocab_size encoder_hash_byte_group_vocab",
    ),
    **_named(
        64,
        "hidden_size d_model n_embd dim embed_dim dim_model model_dim embedding_size "
        "word_embed_proj_dim attention_hidden_size lru_width out_hidden_size projection_dim "
        "projector_hidden_size projection_hidden_size encoder_hidden_size text_hidden_size "
        "out_dim output_dim output_proj_dims backbone_hidden_size emb_dim qformer_hidden_size "
        "hidden_size_per_layer_input cross_attention_hidden_size image_text_hidden_size "
        "local_hidden_size multi_modal_hidden_size vision_output_size audio_hidden_size",
    ),
    **_named(
        128,
        "intermediate_size ffn_dim d_ff dim_ff dff n_inner decoder_ffn_dim encoder_ffn_dim "
        "ffn_hidden_size intermediate_size_mlp dense_intermediate_size shared_intermediate_size "
        "mamba_d_ssm alignment_intermediate_size merged_hidden_size",
    ),
    **_named(
        4,
        "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
        "encoder_attention_heads swa_num_attention_heads index_n_heads linear_num_heads "
        "linear_num_value_heads n_mamba_heads mamba_num_heads resampler_heads",
    ),
    **_named(8, "mamba_n_heads"),
    **_named(2, "linear_num_key_heads num_kv_heads swa_num_key_value_heads"),
    **_named(
        16,
        "head_dim qk_nope_head_dim v_head_dim kv_lora_rank q_lora_rank index_head_dim d_kv "
        "swa_head_dim global_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim "
        "dim_head mamba_d_head kv_channels resampler_dim_head mamba_d_state ssm_state_size "
        "state_size o_lora_rank laurel_rank hc_lowrank mamba_dt_rank time_step_rank "
        "index_block_size attention_chunk_size chunk_size mamba_chunk_size d_rel rel_extent",
    ),
    **_named(32, "mamba_head_dim attention_head_dim"),
    **_named(24, "qk_head_dim"),
    **_named(8, "qk_rope_head_dim rotary_dim sliding_window sliding_window_size local_attention"),
    **_named(
        32,
        "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
        "moe_shared_expert_intermediate_size shared_experts_intermediate_size moe_hidden_size",
    ),
    **_named(4, "num_experts n_routed_experts num_local_experts moe_num_experts"),
    **_named(
        2, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts index_topk"
    ),
    **_named(
        1,
        "n_groups index_kpool n_group topk_group num_expert_group first_k_dense_replace num_dense_layers",
    ),
    **_named(1, "depth insert_layer_id num_kv_shared_layers zero_expert_num"),
    **_named(0, "num_nextn_predict_layers"),
    **_named(
        2,
        "num_layers_per_stack encoder_layers decoder_layers num_decoder_layers n_layer n_layers "
        "layers num_layers",
    ),
}
# where the default says nothing, and the modules want a number
UNSAID: Mapping[str, int] = {
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "num_key_value_heads": 4,
}
LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "layers",
    "num_decoder_layers",
)
# set whatever the default is
CONTEXTS = _named(CONTEXT, "max_position_embeddings n_positions n_ctx max_seq_len model_max_length")
KV_HEADS = "num_key_value_heads"
HEADS = "num_attention_heads"
# layers of towers: one is enough
TOWER = {"num_hidden_layers": 1, "image_size": 32, "max_position_embeddings": 64}
PAD, BOS, EOS = 0, 1, 2
TOKENS = range(3, 90)  # those of prompts; ids of placeholders lie above
_FIRST_PLACEHOLDER = 90


def token_ids(names: list[str]) -> dict[str, int]:
    """Return an id inside the vocabulary for each field that names a token."""
    known = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    others = [name for name in names if name not in known]
    numbered = {name: _FIRST_PLACEHOLDER + i for i, name in enumerate(others)}
    return numbered | {name: value for name, value in known.items() if name in names}


def is_token_id(name: str, value: object) -> bool:
    """Return True if the field is a token's id, as far as its name and value tell."""
    is_named = name.endswith(("token_id", "token_index", "start_id", "end_id", "patch_id"))
    return is_named and type(value) is int
