"""Copy of a step's inputs to the device: one a step, from memory that is pinned once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.ragged import RaggedInputs

_ALIGNMENT = 16  # bytes; enough for any of the device's loads of these numbers


@dataclass(frozen=True, slots=True)
class StepTensors:
    """Inputs of one step where the model runs, valid until the next step's are made; as in RaggedInputs."""

    host: RaggedInputs
    input_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    slot_mapping: torch.Tensor  # [T] int64
    sample_rows: torch.Tensor  # [rows] int64
    query_start: torch.Tensor  # [S + 1] int32
    context_len: torch.Tensor  # [S] int32
    block_tables: torch.Tensor  # [S, blocks] int32
    # the longest context that may be run with these tensors; None: the longest that `host` has
    max_context: int | None = None


ToDevice = Callable[[RaggedInputs], StepTensors]


def on_host(inputs: RaggedInputs) -> StepTensors:
    """Return the very memory of `inputs` as tensors, for a model on the CPU."""
    step = StepTensors(inputs, *map(torch.from_numpy, _arrays(inputs)))
    if inputs.carried is not None:
        inputs.carried.write_into(step.input_ids)
    return step


class Stage(Protocol):
    """Host memory that copies to the device are made from."""

    memory: torch.Tensor  # [bytes] uint8

    def wait(self) -> None:
        """Wait until the device has read the last copy: only then may `memory` be written."""

    def copying(self) -> None:
        """Note that a copy out of `memory` has just been put on the current stream."""


class PinnedStage:
    """Stage of page-locked memory, which the device reads beside the CPU; needs CUDA."""

    def __init__(self, num_bytes: int) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self._copied = torch.cuda.Event()

    def wait(self) -> None:
        """Implement Stage.wait. Before the first copy there is nothing to wait for."""
        self._copied.synchronize()

    def copying(self) -> None:
        """Implement Stage.copying."""
        self._copied.record()


class DeviceInputs:
    """Owner of a model's input buffers: two on the host, filled in turns, and one on the device.

    One on the device is enough: copies and steps are put on the same stream, so a copy waits for the steps
    before it. On the host the CPU would overwrite memory that a copy has still to read, hence two and an
    event for each. Inputs of equal shapes lie at equal addresses while none needs more than the first.
    """

    def __init__(
        self, device: torch.device, new_stage: Callable[[int], Stage] = PinnedStage
    ) -> None:
        self._device = device
        self._new_stage = new_stage
        self._next = 0  # of the stages
        self._reserve(1 << 12)

    def put(self, inputs: RaggedInputs) -> StepTensors:
        """Copy a step's inputs; the tensors hold them until the next `put` or `copy`."""
        self.copy(inputs)
        arrays = _arrays(inputs)
        parts = zip(arrays, _spans(arrays), strict=True)
        return StepTensors(inputs, *(self._tensor(array, span) for array, span in parts))

    def copy(self, inputs: RaggedInputs) -> None:
        """Copy as `put` does, for a caller that has the tensors of equal shapes already.

        Token ids reach the device nowhere else.
        """
        arrays = _arrays(inputs)
        spans = _spans(arrays)
        num_bytes = spans[-1].stop
        if num_bytes > len(self._buffer):
            self._reserve(2 * num_bytes)
        stage = self._stages[self._next]
        self._next = 1 - self._next
        stage.wait()
        memory = stage.memory.numpy()
        for array, span in zip(arrays, spans, strict=True):
            memory[span].view(array.dtype).reshape(array.shape)[...] = array
        self._buffer[:num_bytes].copy_(stage.memory[:num_bytes], non_blocking=True)
        stage.copying()
        if inputs.carried is not None:
            inputs.carried.write_into(self._tensor(inputs.input_ids, spans[0]))

    def _tensor(self, array: NDArray[np.signedinteger], span: slice) -> torch.Tensor:
        dtype = torch.from_numpy(array).dtype
        return self._buffer[span].view(dtype).view(array.shape)

    def _reserve(self, num_bytes: int) -> None:
        self._buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        self._stages = [self._new_stage(num_bytes) for _ in range(2)]


def _arrays(inputs: RaggedInputs) -> list[NDArray[np.signedinteger]]:
    """Return the arrays in the order of StepTensors' fields."""
    return [
        inputs.input_ids,
        inputs.positions,
        inputs.slot_mapping,
        inputs.sample_rows,
        inputs.query_start,
        inputs.context_len,
        inputs.block_tables,
    ]


def _spans(arrays: list[NDArray[np.signedinteger]]) -> list[slice]:
    """Return the span of each array's bytes in a buffer."""
    spans, start = [], 0
    for array in arrays:
        spans.append(slice(start, start + array.nbytes))
        start += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return spans
