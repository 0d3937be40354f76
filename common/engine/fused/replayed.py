"""Decode steps on a CPU: the calls of the first one of a size are noted, and made by it and by the next.

Finding kernels' arrays and calling kernels takes Python longer than it takes a small model to compute a row:
a decode step was Python for a third of its time.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from common.engine.attention.step_arrays import MOST_DECODED, is_decode
from common.engine.cpu.program import Program
from common.engine.cpu.recorder import Recorder
from common.engine.device_inputs import on_host
from common.engine.fused.decoder import FusedDecoder, Tables, Workspace
from common.engine.fused.weights import DecoderWeights
from common.engine.ragged import RaggedInputs

_KEPT = 32  # sizes; calls of one take some 0.3 MB


@dataclass(frozen=True, slots=True)
class _Step:
    """Calls of one size of step, and the rotary tables that they read."""

    program: Program
    tables: Tables


class ReplayedDecoder:
    """TokenModel: a FusedDecoder on CPU kernels, whose calls are kept by the number of tokens.

    A step is repeated where each sequence has one token, all of which sample. The decoder's ops and backend
    must make all calls through `recorder`. Logits last until the next step.
    """

    name = FusedDecoder.name

    def __init__(self, decoder: FusedDecoder, recorder: Recorder) -> None:
        self._decoder = decoder
        self._recorder = recorder
        self._rows = np.arange(MOST_DECODED)
        self._work = decoder.new_workspace(MOST_DECODED)
        self._logits = decoder.new_logits(MOST_DECODED)
        self._by_size: OrderedDict[int, _Step] = OrderedDict()

    @property
    def weights(self) -> DecoderWeights:
        """Weights of the decoder."""
        return self._decoder.weights

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        tokens = len(inputs.input_ids)
        is_whole = np.array_equal(inputs.sample_rows, self._rows[:tokens])
        if not (is_whole and is_decode(inputs)):
            return self._decoder.logits(inputs)
        step, work, logits = on_host(inputs), self._work.first(tokens), self._logits[:tokens]
        with torch.inference_mode():
            tables = self._decoder.begin(step, work)
            kept = self._by_size.get(tokens) or self._record(tables, work, logits)
            self._by_size.move_to_end(tokens)
            for kind, (cos, sin) in kept.tables.items():
                cos.copy_(tables[kind][0])
                sin.copy_(tables[kind][1])
            kept.program.run()
            self._decoder.cap(logits)
        return logits

    def _record(self, tables: Tables, work: Workspace, logits: torch.Tensor) -> _Step:
        with self._recorder.recording() as program:
            self._decoder.run_layers(work, tables, logits)
        tokens = len(logits)
        self._by_size[tokens] = made = _Step(program, tables)
        if len(self._by_size) > _KEPT:
            self._by_size.popitem(last=False)
        return made
