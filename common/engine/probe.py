"""Proof at load that every layer attends through our backend and that the numbers are the model's own.

A model that mixes positions in a way our attention never sees (a recurrent layer, a mask, positions that it
counts itself) would run and answer wrongly. So its logits after a few tokens, with the attention that
`transformers` gives it, are compared with ours, after a chunk and a decode step.
"""

from dataclasses import replace

import torch

from common.engine.attention.interface import ATTENTION_NAME, UnsupportedAttentionError
from common.engine.batch import Batch, BatchEntry
from common.engine.block_pool import BlockPool
from common.engine.kv_cache import KVCache
from common.engine.model_runner import ModelRunner
from common.engine.model_spec import ModelSpec
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence, Timeline
from common.request import SamplingParams, WorkRequest
from pdserve.errors import SetupError

PROBE_TOKENS = 9
# Relative, of the whole row. Right models differ by rounding, 1e-6 in float32; wrong ones by a third or more.
_TOLERANCE = {"float32": 0.01}
_HALF_TOLERANCE = 0.2
_PLAIN = SamplingParams(temperature=1.0, seed=0, max_tokens=1)
_EVERY_OPTION = replace(
    _PLAIN,
    top_k=3,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.1,
    logit_bias=((0, 1.0),),
    logprobs=1,
)


class Probe:
    """Made before the model is fused, run when the engine is built."""

    def __init__(self, model: torch.nn.Module, spec: ModelSpec) -> None:
        # spread over the vocabulary: special tokens gather at its ends
        self._tokens = tuple(spec.vocab_size * (i + 1) // 10 for i in range(PROBE_TOKENS))
        self._limit = _TOLERANCE.get(spec.dtype, _HALF_TOLERANCE)
        self._expected = self._own_logits(model)

    def run(self, runner: ModelRunner, cache: KVCache, pool: BlockPool) -> None:
        """Run a chunk and a decode step; compiles or loads kernels on the way. Raises SetupError."""
        seq, other = (self._sequence(sampling) for sampling in (_PLAIN, _EVERY_OPTION))
        seq.block_table = other.block_table = pool.allocate(pool.num_blocks_for(PROBE_TOKENS))
        try:
            runner.run(Batch((BatchEntry(seq, PROBE_TOKENS - 1),)))
            seq.num_computed_tokens = other.num_computed_tokens = PROBE_TOKENS - 1
            last = Batch((BatchEntry(seq, 1),))
            runner.run(last)
            runner.run(Batch((BatchEntry(other, 1),)))
            self._check_layers(cache.read(seq.block_table, 0, PROBE_TOKENS))
            self._check_logits(runner.logits(RaggedInputs.from_batch(last, pool.block_size)))
        except UnsupportedAttentionError as error:
            raise SetupError(f"the model's attention is not supported: {error}") from error
        except TypeError as error:
            raise SetupError(f"the model does not take our attention keyword: {error}") from error
        finally:
            pool.release(seq.block_table)

    def _sequence(self, sampling: SamplingParams) -> Sequence:
        return Sequence(WorkRequest("probe", 0, self._tokens, sampling), Timeline(arrival_s=0.0))

    def _own_logits(self, model: torch.nn.Module) -> torch.Tensor:
        ids = torch.tensor([self._tokens], device=next(model.parameters()).device)
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0, -1].float()
        model.set_attn_implementation(ATTENTION_NAME)
        return logits

    def _check_layers(self, kv: torch.Tensor) -> None:
        for layer, stored in enumerate(kv):
            if not stored.any():
                raise UnsupportedAttentionError(
                    f"layer {layer} does not attend over keys and values"
                )

    def _check_logits(self, logits: torch.Tensor) -> None:
        error = (logits[0].float() - self._expected).norm() / self._expected.norm()
        if not error <= self._limit:  # NaN is refused too
            raise UnsupportedAttentionError(
                f"its logits differ from the model's own by {float(error):.0%}"
            )
