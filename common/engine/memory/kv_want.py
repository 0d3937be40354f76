"""Sizes of KV memory that make sense for a model: the least that serves it, and the most it can use."""

from dataclasses import dataclass
from typing import Self

from common.engine.limits import Limits
from common.engine.memory.kv_cache import KVCache
from common.engine.model_spec import ModelSpec
from common.engine.state.cache import StateCache

LEAST_TOKENS = 1024  # of one sequence that must fit, or the model's context where that is shorter


@dataclass(frozen=True, slots=True)
class KVWant:
    """Sizes in bytes, of whole blocks and of states."""

    least_tokens: int
    least_bytes: int  # one sequence of so many tokens
    most_bytes: int  # as many sequences as may run, each with the model's whole context

    @classmethod
    def of(cls, spec: ModelSpec, limits: Limits, block_size: int) -> Self:
        """Compute the sizes for a model whose dtype is chosen."""
        block_bytes = KVCache.block_bytes(spec, block_size)
        least_tokens = min(LEAST_TOKENS, spec.max_context_tokens)
        least = max(-(-least_tokens // block_size), 2)
        most = max(-(-spec.max_context_tokens // block_size) * limits.max_num_seqs, least)
        least_state, most_state = (
            0 if spec.state is None else StateCache.bytes_for(spec.state, num_slots)
            for num_slots in (1, limits.max_num_seqs)
        )
        least_bytes = least * block_bytes + least_state
        return cls(least_tokens, least_bytes, most * block_bytes + most_state)

    @property
    def least_told(self) -> str:
        """The least, in words."""
        gib = self.least_bytes / 2**30
        return f"one sequence of {self.least_tokens} tokens {gib:.2f} GiB of KV"
