"""Seam between a model's layers and paged attention."""

from typing import Protocol

import torch

from common.engine.attention.form import AttentionForm
from common.engine.device_inputs import StepTensors
from common.kv_transfer.layout import KVShape


class AttentionBackend(Protocol):
    """Backend that stores a step's keys and values and attends over blocks. One instance per worker.

    `begin` is called once a step, then `attend` once for each layer, in order.
    """

    name: str
    kv_shapes: tuple[KVShape, ...]  # of all keys and values that its blocks have room for
    kv_places: tuple[int, ...]  # by the model's layer: its keys' and values' place among them

    def begin(self, step: StepTensors) -> None:
        """Prepare for one step's batch."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        form: AttentionForm,
        sampled_only: bool = False,
    ) -> torch.Tensor:
        """Store `key` [T, kv_heads, key_dim] and `value` likewise, then return causal attention of `query`.

        `layer` is a place among `kv_shapes`. `query` is [T, heads, key_dim] and the result [T, heads,
        value_dim], both in the blocks' dtype; the next call may overwrite the result. With `sampled_only`
        (the last layer) only the rows `sample_rows` of the result need to be right.
        """
