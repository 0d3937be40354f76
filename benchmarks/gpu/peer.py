"""Continuous batching of `transformers` with the same model and default settings.

Its attention is FlashAttention if a package for that is installed, else `sdpa`; it chooses by
itself.
"""

import time

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager

from benchmarks.gpu.engine_run import Run
from benchmarks.gpu.time_budget import Budget
from benchmarks.workload import Work

_STOP_S = 30.0


class Peer:
    """The peer; a run takes the free memory, or `num_blocks` blocks, and frees it at its end."""

    def __init__(self, model: torch.nn.Module, num_blocks: int | None) -> None:
        self._model = model
        self._config = (
            None if num_blocks is None else ContinuousBatchingConfig(num_blocks=num_blocks)
        )
        self.attention = ""  # the one it chose, known after a run

    def run(self, warm_up: list[Work], works: list[Work], budget: Budget) -> Run:
        """Run all requests at once, cut off at the budget's end.

        Raises RuntimeError if it fails.
        """
        self._model.set_attn_implementation("sdpa")
        with self._model.continuous_batching_context_manager(
            generation_config=GenerationConfig(eos_token_id=[], pad_token_id=0, do_sample=False),
            continuous_batching_config=self._config,
            block=True,
            timeout=_STOP_S,
        ) as manager:
            if not _finish(manager, warm_up, budget):
                raise RuntimeError("the warm-up did not end in time")
            self.attention = str(self._model.config._attn_implementation)
            start_s = time.monotonic()
            is_whole = _finish(manager, works, budget)
            return Run(time.monotonic() - start_s, is_whole)


def _finish(manager: ContinuousBatchingManager, works: list[Work], budget: Budget) -> bool:
    """Return True if all requests ended in time; cancel those that did not."""
    ids = [
        manager.add_request(list(work.prompt_token_ids), max_new_tokens=work.output_tokens)
        for work in works
    ]
    unfinished = len(works)
    while unfinished:
        if budget.remaining_s <= 0:
            for request_id in ids:
                manager.cancel_request(request_id)
            return False
        output = manager.get_result(timeout=budget.remaining_s)
        if output is None and budget.remaining_s > 0:
            raise RuntimeError("it stopped answering")
        if output is not None and output.error is not None:
            raise RuntimeError(f"a request failed: {output.error}")
        unfinished -= output is not None and output.is_finished()
    return True
