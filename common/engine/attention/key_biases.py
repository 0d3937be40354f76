"""Biases of scores by the position of the key (ALiBi as Falcon rounds it), as further channels of keys.

ALiBi by distance and by the key's position give the same weights, unless biases are rounded. Falcon rounds
its to bfloat16, which far from the first position makes steps of many positions. So they are looked up in a
table that the model's own function makes. A key gets its bias as a channel, and a query 1.0 there. Each query
head needs a KV head of its own.
"""

import sys
from typing import Any

import torch

BIAS_CHANNELS = 16  # one would do; the CPU's kernels take multiples of it


def has_key_biases(text: Any) -> bool:
    """Return True for the configuration of a model whose biases are added this way."""
    if not getattr(text, "alibi", False) or text.model_type != "falcon":
        return False
    heads, is_grouped = text.num_attention_heads, getattr(text, "new_decoder_architecture", False)
    return text.num_kv_heads == heads if is_grouped else not text.multi_query


class KeyBiases:
    """Table of one bias for each head and position."""

    def __init__(self, table: torch.Tensor) -> None:
        """Take `table` [heads, positions], float32."""
        self._table = table

    def behind(self, key: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return `key` [1, heads, T, channels] of `positions` [T] with BIAS_CHANNELS more."""
        biases = key.new_zeros(*key.shape[:3], BIAS_CHANNELS)
        biases[0, :, :, 0] = self._table[:, positions]
        return torch.cat((key, biases), dim=-1)

    @staticmethod
    def asked_by(query: torch.Tensor) -> torch.Tensor:
        """Return scaled queries [..., T, channels] with BIAS_CHANNELS more, which take a key's bias."""
        return torch.cat((query, query.new_ones(*query.shape[:-1], BIAS_CHANNELS)), dim=-1)


def biases_of(model: Any) -> KeyBiases | None:
    """Return the table of a model of `transformers`; None where no biases are added this way."""
    config = model.config
    if not has_key_biases(config):
        return None
    heads, context = config.num_attention_heads, config.max_position_embeddings
    ones = torch.ones(1, context, dtype=torch.int64, device=next(model.parameters()).device)
    make = sys.modules[type(model).__module__].build_alibi_tensor
    table = make(ones, heads, torch.float32)[:, 0]
    # its attention scales scores and biases together
    return KeyBiases(table * (config.hidden_size // heads) ** -0.5)
