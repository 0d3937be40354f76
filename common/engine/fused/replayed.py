"""Steps of few tokens on a CPU: the calls of the first one of a size are made again by the next ones."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.engine.cpu.recorder import Call, Recorder
from common.engine.device_inputs import on_host
from common.engine.fused.decoder import FusedDecoder, Tables, Workspace
from common.engine.fused.weights import DecoderWeights
from common.engine.ragged import RaggedInputs

_MOST_TOKENS = 64  # beyond that, kernels take much longer than finding their arrays
_KEPT = 32  # sizes; calls of one take some 0.3 MB


@dataclass(frozen=True, slots=True)
class _Calls:
    """Calls of one size of step, and the rotary tables that they read."""

    calls: Sequence[Call]
    tables: Tables


class ReplayedDecoder:
    """TokenModel: a FusedDecoder on CPU kernels, whose calls are kept by the number of tokens.

    A step is repeated where the logits of all its tokens are wanted, in their order. The decoder's ops and
    backend must make all calls through `recorder`. Logits last until the next step.
    """

    name = FusedDecoder.name

    def __init__(self, decoder: FusedDecoder, recorder: Recorder) -> None:
        self._decoder = decoder
        self._recorder = recorder
        self._rows = np.arange(_MOST_TOKENS)
        self._work = decoder.new_workspace(_MOST_TOKENS)
        self._logits = decoder.new_logits(_MOST_TOKENS)
        self._by_size: OrderedDict[int, _Calls] = OrderedDict()

    @property
    def weights(self) -> DecoderWeights:
        """Weights of the decoder."""
        return self._decoder.weights

    def logits(self, inputs: RaggedInputs) -> torch.Tensor:
        """Implement TokenModel.logits."""
        tokens = len(inputs.input_ids)
        is_whole = np.array_equal(inputs.sample_rows, self._rows[:tokens])
        if tokens > _MOST_TOKENS or not is_whole:
            return self._decoder.logits(inputs)
        step, work, logits = on_host(inputs), self._work.first(tokens), self._logits[:tokens]
        with torch.inference_mode():
            tables = self._decoder.begin(step, work)
            kept = self._by_size.get(tokens)
            if kept is None:
                kept = self._by_size[tokens] = self._record(tables, work, logits)
                if len(self._by_size) > _KEPT:
                    self._by_size.popitem(last=False)
            else:
                self._by_size.move_to_end(tokens)
                _replay(kept, tables)
            self._decoder.cap(logits)
        return logits

    def _record(self, tables: Tables, work: Workspace, logits: torch.Tensor) -> _Calls:
        with self._recorder.recording() as calls:
            self._decoder.run_layers(work, tables, logits)
        return _Calls(calls, tables)


def _replay(kept: _Calls, tables: Tables) -> None:
    for kind, (cos, sin) in kept.tables.items():
        cos.copy_(tables[kind][0])
        sin.copy_(tables[kind][1])
    for call in kept.calls:
        call()
