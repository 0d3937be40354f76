"""Decode steps on a CPU: the calls of the first one of a kind are noted, and made by it and by the next.

Finding kernels' arrays and calling kernels takes Python longer than it takes a small model to compute a row:
a decode step was Python for a third of its time.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from common.engine.attention.cpu import CpuBackend
from common.engine.attention.step_arrays import MOST_DECODED, is_decode
from common.engine.cpu.program import Program
from common.engine.fused.cpu_ops import CpuOps, check_ids
from common.engine.fused.decoder import FusedDecoder
from common.engine.fused.kept_rotary import KeptRotary, is_fixed
from common.engine.fused.weights import DecoderWeights
from common.engine.ragged import RaggedInputs

_KEPT = 32  # kinds of steps; calls of one take some 0.3 MB

_Kind = tuple[int, bool]  # number of tokens, and if attention is split


@dataclass(frozen=True, slots=True)
class _Step:
    """Calls of one kind of step, and the logits that they write."""

    program: Program
    logits: torch.Tensor


class ReplayedDecoder:
    """TokenModel: a FusedDecoder on CPU kernels, whose calls are kept by the kind of step.

    A step is repeated where each sequence has one token, and all sample. Logits last until the next step.
    """

    name = FusedDecoder.name

    def __init__(self, weights: DecoderWeights, ops: CpuOps, backend: CpuBackend) -> None:
        self._recorder, self._backend = backend.recorder, backend
        self._decoder = FusedDecoder(weights, ops.recorded_by(self._recorder), backend)
        self._all_rows = list(range(MOST_DECODED))
        self._work = self._decoder.new_workspace(MOST_DECODED)
        self._logits = self._decoder.new_logits(MOST_DECODED)
        self._ids = np.zeros(MOST_DECODED, np.int64)
        self._rotary = KeptRotary(
            self._decoder.rotary_tables,
            MOST_DECODED,
            backend.max_context_tokens,
            is_fixed(weights.rotary.rope_type),
        )
        self._by_kind: OrderedDict[_Kind, _Step] = OrderedDict()

    @property
    def weights(self) -> DecoderWeights:
        """Weights of the decoder."""
        return self._decoder.weights

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        # few functions of numpy and torch: a step of the model leaves no cache with their code
        if not (is_decode(inputs) and inputs.carried is None and self._sample_all(inputs)):
            return self._decoder.logits(inputs)
        check_ids(inputs.input_ids, self.weights.embedding)
        tokens = len(inputs.input_ids)
        self._ids[:tokens] = inputs.input_ids
        self._rotary.fill(inputs.positions)
        self._backend.begin_on_host(inputs)
        kind = tokens, self._backend.is_split
        step = self._by_kind.get(kind) or self._record(kind)
        self._by_kind.move_to_end(kind)
        step.program.run()
        self._decoder.cap(step.logits)
        return step.logits

    def _sample_all(self, inputs: RaggedInputs) -> bool:
        rows = inputs.sample_rows.tolist()
        return len(rows) == len(inputs.input_ids) and rows == self._all_rows[: len(rows)]

    def _record(self, kind: _Kind) -> _Step:
        tokens, _ = kind
        work, tables = self._work.first(tokens), self._rotary.first(tokens)
        step = _Step(Program(), self._logits[:tokens])
        with torch.inference_mode(), self._recorder.recording(step.program):
            self._decoder.embed(torch.from_numpy(self._ids[:tokens]), work)
            self._decoder.run_layers(work, tables, step.logits)
        self._by_kind[kind] = step
        if len(self._by_kind) > _KEPT:
            self._by_kind.popitem(last=False)
        return step
