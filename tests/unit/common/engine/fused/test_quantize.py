"""Weights in groups of 32 small integers: levels, scales and the numbers that they stand for."""

import pytest
import torch

from common.engine.fused.quantize import GROUP, Format, can_quantize, quantize


def group(*first: float) -> torch.Tensor:
    """Return one row of one group: these numbers, then zeros."""
    return torch.tensor([[*first, *[0.0] * (GROUP - len(first))]])


def test_int8_by_hand() -> None:
    found = quantize(group(127.0, -63.4, 1.6, -0.4), "int8")
    assert found.scales.tolist() == [[[1.0]]]
    assert found.levels[0, :5].tolist() == [127, -63, 2, 0, 0]
    assert found.dequantized()[0, :4].tolist() == [127.0, -63.0, 2.0, 0.0]


def test_int4_by_hand() -> None:
    """Levels go from the smallest number, which is the offset, to the largest."""
    found = quantize(group(-3.0, 4.5, 1.3, 0.7), "int4")
    assert found.scales.tolist() == [[[0.5, -3.0]]]
    assert found.levels[0, :5].tolist() == [0, 15, 9, 7, 6]
    assert found.dequantized()[0, :5].tolist() == [-3.0, 4.5, 1.5, 0.5, 0.0]


def test_int4_of_equal_numbers_is_their_offset() -> None:
    found = quantize(torch.full((1, GROUP), 0.75), "int4")
    assert found.scales.tolist() == [[[0.0, 0.75]]]
    assert (found.dequantized() == 0.75).all()


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_is_within_half_a_level(form: Format, dtype: torch.dtype) -> None:
    weight = torch.randn(33, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = quantize(weight, form)
    error = (found.dequantized() - weight.float()).abs().unflatten(1, (-1, GROUP))
    # the scale is rounded to float16, which moves the ends by 2^-11 of 127 levels
    assert (error <= 0.57 * found.scales[..., :1].float()).all()


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_numbers_that_are_quantized_already_stay_as_they_are(form: Format) -> None:
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(2))
    once = quantize(weight, form)
    again = quantize(once.dequantized(), form)
    assert torch.equal(again.dequantized(), once.dequantized())


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_groups_of_zeros_are_zeros_and_do_not_change_others(form: Format) -> None:
    weight = torch.cat([torch.zeros(1, GROUP), group(3.0, -1.0)], dim=1)
    found = quantize(weight, form).dequantized()
    assert not found[0, :GROUP].any()
    assert found[0, GROUP] == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_a_group_that_cannot_be_held_is_nan_not_some_number(form: Format, bad: float) -> None:
    found = quantize(torch.cat([group(bad, 1.0), group(3.0)], dim=1), form).dequantized()
    assert found[0, :GROUP].isnan().all()
    assert found[0, GROUP:].isfinite().all()


def test_only_whole_groups_of_floats_can_be_quantized() -> None:
    assert can_quantize(torch.zeros(3, 64, dtype=torch.bfloat16))
    assert not can_quantize(torch.zeros(3, 48))
    assert not can_quantize(torch.zeros(3, 64, dtype=torch.int8))
