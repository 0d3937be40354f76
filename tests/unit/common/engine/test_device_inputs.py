"""A step's inputs arrive whole, in one copy; host memory is never overwritten before it was copied."""

import random

import numpy as np
import pytest
import torch

from common.engine.batch import Batch, BatchEntry
from common.engine.device_inputs import DeviceInputs, StepTensors, on_host
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.plain_stage import CPU, PlainStage, plain_inputs
from tests.unit.common.engine.sequences import make_sequence

NAMES = (
    "input_ids",
    "positions",
    "slot_mapping",
    "sample_rows",
    "query_start",
    "context_len",
    "block_tables",
)


def make_inputs(counts: list[int], seed: int = 0, computed: int = 20) -> RaggedInputs:
    draw = random.Random(seed)
    entries = []
    for count in counts:
        seq = make_sequence(draw.choices(range(1000), k=computed + count), computed=computed)
        seq.block_table = draw.choices(range(500), k=(computed + count + 15) // 16)
        entries.append(BatchEntry(seq, count))
    return RaggedInputs.from_batch(Batch(tuple(entries)), 16)


def check(step: StepTensors, inputs: RaggedInputs) -> None:
    assert step.host is inputs
    for name in NAMES:
        array, tensor = getattr(inputs, name), getattr(step, name)
        assert tensor.dtype == torch.from_numpy(array).dtype, name
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 4 == 0
        np.testing.assert_array_equal(tensor.cpu().numpy(), array, err_msg=name)


@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [7], [1, 300, 2], [5, 1, 1]])
def test_everything_arrives(counts: list[int]) -> None:
    inputs = make_inputs(counts)
    check(plain_inputs().put(inputs), inputs)
    check(on_host(inputs), inputs)


def test_on_the_host_nothing_is_copied() -> None:
    inputs = make_inputs([3, 1])
    step = on_host(inputs)
    for name in NAMES:
        assert getattr(step, name).data_ptr() == getattr(inputs, name).ctypes.data


def test_a_chunk_without_logits_has_no_sample_rows() -> None:
    seq = make_sequence(20)
    seq.block_table = [4, 2]
    inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, 8),)), 16)
    check(plain_inputs().put(inputs), inputs)
    assert len(inputs.sample_rows) == 0


def test_equal_shapes_lie_at_equal_addresses_whatever_ran_between() -> None:
    """A captured step would otherwise read memory that nobody writes any more."""
    owner = plain_inputs()
    first = owner.put(make_inputs([1] * 8))
    addresses = [getattr(first, name).data_ptr() for name in NAMES]
    for seed, counts in enumerate([[1] * 4, [1], [1] * 8]):
        owner.copy(make_inputs(counts, seed))
    latest = make_inputs([1] * 8, seed=9)
    owner.copy(latest)
    check_same = owner.put(latest)
    assert [getattr(check_same, name).data_ptr() for name in NAMES] == addresses
    np.testing.assert_array_equal(first.input_ids.numpy(), latest.input_ids)


def test_larger_inputs_find_room_and_smaller_ones_after_them() -> None:
    owner = plain_inputs()
    for seed, counts in enumerate([[1], [2000], [1, 1], [1] * 400, [3]]):
        inputs = make_inputs(counts, seed)
        check(owner.put(inputs), inputs)


def test_memory_is_written_only_after_its_last_copy_was_waited_for() -> None:
    """Stages take turns: the CPU waits for the copy before the last, never for the last."""
    events: list[str] = []
    stages: list[PlainStage] = []

    def new_stage(num_bytes: int) -> PlainStage:
        stages.append(LateStage(num_bytes, events, f"{len(stages)}"))
        return stages[-1]

    owner = DeviceInputs(CPU, new_stage)
    for seed in range(4):
        owner.put(make_inputs([1, 1], seed))
    assert events == ["wait 0", "copying 0", "wait 1", "copying 1"] * 2
    assert len(stages) == 2


class LateStage(PlainStage):
    """Stage that checks that its memory is unchanged until it is waited for."""

    def __init__(self, num_bytes: int, events: list[str], name: str) -> None:
        super().__init__(num_bytes, events)
        self._name = name
        self._copied = self.memory.clone()

    def wait(self) -> None:
        assert torch.equal(self.memory, self._copied), "overwritten before the wait"
        self.events.append(f"wait {self._name}")

    def copying(self) -> None:
        self._copied = self.memory.clone()
        self.events.append(f"copying {self._name}")
