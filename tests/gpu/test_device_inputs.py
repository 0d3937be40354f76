"""Inputs from pinned memory, while the device is behind the host."""

import pytest
import torch

from common.engine.device_inputs import DeviceInputs
from tests.unit.common.engine.test_device_inputs import NAMES, make_inputs

pytestmark = pytest.mark.gpu

_BUSY_CYCLES = 5_000_000  # some milliseconds, so steps are enqueued much faster than they run


def test_no_step_reads_the_inputs_of_a_later_one() -> None:
    owner = DeviceInputs(torch.device("cuda"))
    expected, found = [], []
    for seed in range(40):
        inputs = make_inputs([1 + seed % 5, 1, 7], seed)
        torch.cuda._sleep(_BUSY_CYCLES)
        step = owner.put(inputs)
        # read by the device where a step would run, long after `put` has returned
        found.append([getattr(step, name).clone() for name in NAMES])
        expected.append([torch.from_numpy(getattr(inputs, name)) for name in NAMES])
    for step_found, step_expected in zip(found, expected, strict=True):
        for tensor, right in zip(step_found, step_expected, strict=True):
            assert torch.equal(tensor.cpu(), right)


def test_room_is_made_while_copies_run() -> None:
    owner = DeviceInputs(torch.device("cuda"))
    for seed, counts in enumerate([[1], [4000], [1, 1], [20_000], [3]]):
        inputs = make_inputs(counts, seed)
        torch.cuda._sleep(_BUSY_CYCLES)
        step = owner.put(inputs)
        for name in NAMES:
            assert torch.equal(getattr(step, name).cpu(), torch.from_numpy(getattr(inputs, name)))
