"""Seam between a model's layers and paged attention."""

from typing import Protocol

import torch

from common.engine.attention.form import AttentionForm
from common.engine.device_inputs import StepTensors


class AttentionBackend(Protocol):
    """Backend that stores a step's keys and values and attends over blocks. One instance per worker.

    `begin` is called once a step, then `attend` once for each layer, in order.
    """

    name: str
    kv_shape: tuple[int, int]  # KV heads and channels that its blocks have room for

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
        """Store `key` and `value` [T, kv_heads, head_dim], then return causal attention of `query`.

        `query` is [T, heads, head_dim], in the blocks' dtype; so is the result, which the next call may
        overwrite. With `sampled_only` (the last layer) only the rows `sample_rows` of the result need to be
        right.
        """
