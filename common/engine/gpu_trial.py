"""Measurement of the memory that a GPU has for KV: what is left beside graphs and the largest steps.

They run once on a few blocks. KV memory is allocated after that, and the graphs are captured anew: they hold
its addresses.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from common.config import EngineConfig
from common.engine.attention.backend import AttentionBackend
from common.engine.attention.select import select_backend
from common.engine.batch import Batch, BatchEntry
from common.engine.device_copy import DeviceCopies
from common.engine.graphs.cuda_graphs import fitting, graph_decode
from common.engine.graphs.graphed import GraphLimits
from common.engine.limits import Limits, choose_limits
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.gpu_share import STEP_REMEDY, GpuRoom
from common.engine.memory.kv_cache import KVCache
from common.engine.model_runner import ModelRunner, TokenModel
from common.engine.model_spec import ModelSpec
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.grammar.matcher import MaskFiller
from common.messages import SamplingParams, WorkRequest
from pdserve.errors import SetupError

WithBackend = Callable[[AttentionBackend], TokenModel]

_SAMPLING = SamplingParams(temperature=1.0, seed=0, max_tokens=1, top_k=50, top_p=0.9)


@dataclass(frozen=True, slots=True)
class GpuTrial:
    """All that the largest steps of an engine need; the weights lie on the device."""

    spec: ModelSpec
    config: EngineConfig
    device: torch.device
    with_backend: WithBackend
    block_size: int

    def measure(self, before: GpuRoom) -> GpuRoom:
        """Return the memory that is left for KV, for the share of `before`.

        Raises SetupError where the largest steps do not fit.
        """
        limits = choose_limits(self.config, self.device.type)
        try:
            num_bytes = self._run(limits)
        except torch.OutOfMemoryError as error:
            raise SetupError(
                f"the model does not fit: beside its weights, steps of {limits.max_batch_tokens} tokens "
                "and their graphs need more of the GPU's memory than this worker may still take",
                STEP_REMEDY,
            ) from error
        torch.cuda.synchronize(self.device)
        # before anything is given back: what steps and graphs took once, they will take again
        left = GpuRoom.read(self.device, before.share).taking(-num_bytes)
        gc.collect()
        torch.cuda.empty_cache()
        return left

    def _run(self, limits: Limits) -> int:
        """Run the largest steps and capture the graphs; return the bytes of the blocks."""
        spec = self.spec
        num_blocks = num_trial_blocks(limits, self.block_size)
        cache = KVCache(spec, num_blocks + 1, self.block_size, self.device, "pages")
        backend = select_backend(self.config.attention_backend, cache, spec.num_heads, spec.extras)
        model, pool = self.with_backend(backend), BlockPool(num_blocks, self.block_size)
        eos, masks = spec.eos_token_ids, MaskFiller(spec.vocab_size)
        runner = ModelRunner(model, self.block_size, eos, masks, DeviceCopies())
        run_largest_steps(runner, pool, limits, spec.max_context_tokens)
        if self.config.cuda_graphs == "auto":
            whole = -(-spec.max_context_tokens // self.block_size)
            served = GraphLimits(limits.max_num_seqs, whole, self.block_size, num_blocks)
            # as many sequences as are served, with as many blocks as there are here
            graphs = replace(fitting(served, backend), max_blocks=min(whole, num_blocks))
            model = graph_decode(model, backend, graphs)
            runner = ModelRunner(model, self.block_size, eos, masks, DeviceCopies())
            run_largest_steps(runner, pool, limits, spec.max_context_tokens)
        return cache.num_bytes


def num_trial_blocks(limits: Limits, block_size: int) -> int:
    """Return how many blocks the largest steps need: those of one prompt, which all sequences share."""
    return max(-(-limits.max_batch_tokens // block_size), 2)


def run_largest_steps(
    runner: ModelRunner, pool: BlockPool, limits: Limits, max_context_tokens: int
) -> None:
    """Run a step of as many prompt tokens, and one of as many decoding sequences, as the limits allow.

    All sequences share the same blocks: what they hold does not matter.
    """
    capacity = min(max_context_tokens - 1, pool.num_blocks * pool.block_size)
    length = max(min(limits.max_batch_tokens, capacity), 1)
    blocks = pool.allocate(pool.num_blocks_for(length))
    try:
        num_whole, rest = divmod(limits.max_batch_tokens, length)
        prompts = [*([length] * num_whole), *([rest] if rest else [])]
        runner.run(Batch(tuple(_entry(size, 0, blocks) for size in prompts)))
        last = length - 1
        runner.run(Batch(tuple(_entry(length, last, blocks) for _ in range(limits.max_num_seqs))))
    finally:
        pool.release(blocks)


def _entry(num_tokens: int, num_computed: int, blocks: list[int]) -> BatchEntry:
    tokens = (1,) * num_tokens
    seq = Sequence(WorkRequest("memory", 0, tokens, _SAMPLING), Timeline(arrival_s=0.0))
    seq.num_computed_tokens, seq.block_table = num_computed, blocks
    return BatchEntry(seq, num_tokens - num_computed)
