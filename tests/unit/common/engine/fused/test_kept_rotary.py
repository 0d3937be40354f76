"""Rotary tables of decode steps have the bits that the model's module gives."""

import numpy as np
import pytest
import torch

from common.engine.fused.decoder import Tables
from common.engine.fused.kept_rotary import KeptRotary, is_fixed

MOST_ROWS, MOST_POSITIONS = 8, 1000
# within a page, at its ends, behind the last whole page, the same twice, and beyond all that are kept
STEPS = ([0], [255, 256], [999, 3, 3], [512, 511, 0, 768], [1023, 1024], [5000])


def tables_of(positions: torch.Tensor) -> Tables:
    """Return two kinds of tables."""
    made: Tables = {}
    for kind, dim in (("full", 6), ("sliding", 4)):
        angles = positions[:, None].float() * torch.linspace(1, 0.01, dim)
        made[kind] = angles.cos(), angles.sin()
    return made


@pytest.mark.parametrize("is_fixed", [True, False])
def test_rows_are_those_of_the_module(is_fixed: bool) -> None:
    rotary = KeptRotary(tables_of, MOST_ROWS, MOST_POSITIONS, is_fixed)
    first = rotary.first(MOST_ROWS)
    for positions in STEPS * 2:
        rotary.fill(np.array(positions))
        for kind, expected in tables_of(torch.tensor(positions)).items():
            for ours, plain in zip(first[kind], expected, strict=True):
                assert torch.equal(ours[: len(positions)], plain)


def test_positions_of_one_page_are_computed_once() -> None:
    asked = list[int]()

    def compute(positions: torch.Tensor) -> Tables:
        asked.append(len(positions))
        return tables_of(positions)

    rotary = KeptRotary(compute, MOST_ROWS, MOST_POSITIONS, is_fixed=True)
    for position in range(300):
        rotary.fill(np.array([position]))
    assert asked == [1, 256, 256]


def test_tables_that_read_positions_are_computed_for_each_step() -> None:
    def compute(positions: torch.Tensor) -> Tables:
        return {None: (positions[:, None] / positions.max(), positions[:, None].float())}

    rotary = KeptRotary(compute, MOST_ROWS, MOST_POSITIONS, is_fixed=False)
    cos, _ = rotary.first(2)[None]
    for positions in ([1, 4], [2, 2]):
        rotary.fill(np.array(positions))
        assert cos[:, 0].tolist() == [x / max(positions) for x in positions]


def test_scaling_by_length_is_not_fixed() -> None:
    assert is_fixed("default")
    assert is_fixed({"full_attention": "linear", "sliding_attention": "default"})
    assert not is_fixed("dynamic")
    assert not is_fixed({"full_attention": "longrope", "sliding_attention": "default"})
