"""Layers with an indexer give the tokens of `transformers` where it would choose every position."""

from pathlib import Path

import pytest

from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.state.hybrids import PROMPTS
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    save_model,
)

NEW_TOKENS = 8
SHAPE: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "index_topk": 320,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FAMILIES: dict[str, dict[str, object]] = {
    "deepseek_v32": {},
    # the second layer takes the choice of the first
    "glm_moe_dsa": {"indexer_types": ["full", "shared", "full"]},
    # its second layer has a window, and half as many heads
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
        "head_dim": 32,
        "sliding_window": 8,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 32,
        "swa_head_dim": 32,
        "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_context_as_long_as_the_choice_gives_transformers_tokens(
    tmp_path: Path, family: str
) -> None:
    folder = save_model(tmp_path, family, **SHAPE | FAMILIES[family])
    reference = load_reference(folder)
    expected = [continue_greedily(reference, prompt, NEW_TOKENS) for prompt in PROMPTS]
    engine = make_engine(folder, engine_config(num_blocks=400))
    assert engine.spec.max_context_tokens == 320
    assert continuations(engine, PROMPTS, NEW_TOKENS, 67) == expected
