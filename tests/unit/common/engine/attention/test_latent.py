"""Latent attention, absorbed and as `transformers` runs it."""

from pathlib import Path

import torch

from common.engine.attention.interface import ATTENTION_NAME, OWN_NAME, choose_attention
from common.engine.attention.latent import has_latents
from common.engine.memory.block_storage import Piece
from common.engine.own_kv import like_stored
from common.engine.weights.load import load_model
from common.kv_transfer.layout import KVShape, LatentShape
from tests.unit.common.engine.tiny_models import save_model


def test_a_model_runs_by_itself_again_after_it_was_absorbed(tmp_path: Path) -> None:
    """An engine may be built of a model that another engine has run."""
    model, _ = load_model(save_model(tmp_path, "deepseek_v3"), "float32", torch.device("cpu"))
    layers = [layer.self_attn for layer in model.model.layers]
    ids, logits = torch.tensor([[5, 7, 11]]), []
    for _ in range(2):
        choose_attention(model, OWN_NAME)
        assert not any(map(has_latents, layers))
        with torch.inference_mode():
            logits.append(model(input_ids=ids, use_cache=False).logits)
        choose_attention(model, ATTENTION_NAME)
        assert all(map(has_latents, layers))
    assert torch.equal(*logits)


def test_own_keys_and_values_are_compared_in_the_shapes_of_stored_ones() -> None:
    latent, rotated = torch.randn(9, 1, 16), torch.randn(9, 1, 16)
    stored = torch.cat((latent, rotated), dim=-1), latent
    keys, values = torch.randn(9, 2, 16), torch.randn(9, 2, 16)
    own, plain = (keys, values), KVShape(2, 16, 16)
    repeated = keys.repeat_interleave(3, dim=1), values.repeat_interleave(3, dim=1)
    biased = torch.cat((keys, torch.ones(9, 2, 16)), dim=-1), values
    assert are_same(like_stored((latent, rotated), stored, LatentShape(1, 32, 16)), stored)
    assert are_same(like_stored(repeated, own, plain), own)
    assert are_same(like_stored(own, (values, keys), plain), own)
    assert are_same(like_stored(own, biased, KVShape(2, 32, 16)), biased)
    assert like_stored(own, (keys[..., :8], values[..., :8]), KVShape(2, 8, 8)) is None


def are_same(found: Piece | None, expected: Piece) -> bool:
    """Compare bit by bit."""
    return found is not None and all(map(torch.equal, found, expected))
