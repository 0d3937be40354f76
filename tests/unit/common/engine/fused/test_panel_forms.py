"""Kernels on every form of panels give what torch gives with the numbers that the levels stand for."""

from dataclasses import replace

import pytest
import torch

from common.engine.cpu.integer_rows import LIMIT
from common.engine.cpu.panel import WIDTH
from common.engine.cpu.program import Program
from common.engine.cpu.recorder import Recorder
from common.engine.cpu.scale_blocks import BLOCK
from common.engine.fused.block_scales import nearest
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.ops import TorchOps
from common.engine.fused.quantize import PanelForm, QuantizedWeight, quantize
from common.engine.fused.quantized_panels import laid_out, to_quantized_panels
from common.engine.fused.weights import Linear
from common.engine.kernel_checks.verdicts import products_verdict
from tests.unit.common.engine.fused.integer_rows import multiplied

OURS, PLAIN = CpuOps(is_quantized=True), TorchOps()
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
DEPTH = 512  # two blocks of scales
# the forms of GGUF's Q8_0, Q4_0, Q4_1, Q5_1, Q4_K, Q5_K, Q6_K, and of AWQ's groups of 128
FORMS = pytest.mark.parametrize(
    ("form", "group"),
    [
        (PanelForm(8, has_offsets=False), 32),
        (PanelForm(4, has_offsets=False), 32),
        (PanelForm(4, has_offsets=True), 32),
        # compiles kernels of its own; the two that follow have its levels, or its scales
        pytest.param(PanelForm(8, has_offsets=True), 32, marks=pytest.mark.slow),
        (PanelForm(4, has_offsets=True, scales="int8"), 32),
        (PanelForm(8, has_offsets=True, scales="int8"), 32),
        (PanelForm(8, has_offsets=False, scales="int8"), 16),
        (PanelForm(4, has_offsets=True, scales="float32"), 128),
        (PanelForm(4, has_offsets=False), 64),
    ],
    ids=str,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_of(form: PanelForm, group: int, num_rows: int, seed: int = 1) -> QuantizedWeight:
    weight = quantize(normal(num_rows, DEPTH, seed=seed) / 10 + 0.02, form, group)
    assert weight.form == form
    assert weight.num_groups == DEPTH // group
    assert weight.scales.shape[::2] == (num_rows, 2 if form.has_offsets else 1)
    return weight


def product(weight: QuantizedWeight, bias: torch.Tensor | None = None) -> Linear:
    num_rows = len(weight.levels)
    return laid_out(Linear(weight.levels, bias, num_outputs=num_rows), weight, bias)


@FORMS
def test_products(form: PanelForm, group: int) -> None:
    weight, bias = weight_of(form, group, 75), normal(75, seed=2)
    for tokens in (1, 2, 5, 13, 31):
        x, ours = normal(tokens, DEPTH, seed=3), torch.full((tokens, 75), float("nan"))
        OURS.linear(x, product(weight, bias), ours)
        rows = multiplied(x, weight.num_groups)
        exact = rows.double() @ weight.dequantized().double().T + bias
        torch.testing.assert_close(ours.double(), exact, **CLOSE)


@FORMS
def test_every_level_and_sign_by_hand(form: PanelForm, group: int) -> None:
    """One input of 1 picks a number of each row: scale * level, and the offset."""
    lowest, highest = form.level_range
    lowest -= not form.has_offsets  # two's complement has one more below
    kind = torch.uint8 if form.has_offsets else torch.int8
    levels = torch.arange(DEPTH).remainder(highest - lowest + 1) + lowest
    rows = torch.stack([levels.roll(n) for n in range(WIDTH)]).to(kind)
    scales = torch.rand(WIDTH, DEPTH // group, 2 if form.has_offsets else 1) + 0.5
    kinds = {"float16": torch.float16, "float32": torch.float32}
    by_blocks = form.scales == "int8"
    kept = nearest(scales, DEPTH // BLOCK) if by_blocks else scales.to(kinds[form.scales])
    weight = QuantizedWeight(rows, kept, form.bits)
    ours = torch.empty(DEPTH, WIDTH)
    OURS.linear(torch.eye(DEPTH), product(weight), ours)
    torch.testing.assert_close(ours, weight.dequantized().T, atol=0, rtol=1e-6)
    read = torch.empty(WIDTH, DEPTH)
    OURS.embed(torch.arange(WIDTH), product(weight), read)
    torch.testing.assert_close(read, weight.dequantized(), atol=0, rtol=1e-6)


@FORMS
@pytest.mark.parametrize("is_highest", [False, True])
def test_one_row_has_the_bits_of_many_where_sums_are_largest(
    form: PanelForm, group: int, is_highest: bool
) -> None:
    weight = weight_of(form, group, WIDTH)
    lowest, highest = form.level_range
    lowest -= not form.has_offsets
    weight = replace(
        weight, levels=torch.full_like(weight.levels, highest if is_highest else lowest)
    )
    x = torch.ones(6, DEPTH)
    x[1] = -1
    x[2:4] = torch.tensor([[-128 / LIMIT], [127 / LIMIT]])  # digits as large as they become
    x[4:] = torch.tensor([[-128 * 255 / LIMIT], [(127 * 256 - 128) / LIMIT]])
    x[2:, :: DEPTH // 16] = 1
    every = torch.empty(6, WIDTH)
    OURS.linear(x, product(weight), every)
    for row in range(6):
        one = torch.empty(1, WIDTH)
        OURS.linear(x[row : row + 1], product(weight), one)
        assert torch.equal(one[0], every[row])
    exact = multiplied(x, weight.num_groups).double() @ weight.dequantized().double().T
    torch.testing.assert_close(every.double(), exact, atol=1e-3, rtol=1e-4)


@FORMS
def test_panels_take_the_bits_of_levels_and_scales_alone(form: PanelForm, group: int) -> None:
    levels, scales = to_quantized_panels(weight_of(form, group, WIDTH))
    assert levels.nbytes == WIDTH * DEPTH * form.bits // 8
    of_group, of_block = {"float16": (2, 0), "float32": (4, 0), "int8": (1, 2)}[form.scales]
    of_row = DEPTH // group * of_group + DEPTH // BLOCK * of_block
    assert scales.nbytes == WIDTH * of_row * (2 if form.has_offsets else 1)


def test_one_weight_in_several_forms_gives_columns_side_by_side() -> None:
    """So query, key and value of a Q4_K_M file: the values are Q6_K in half of its layers."""
    wide = weight_of(PanelForm(4, True, "int8"), 32, 2 * WIDTH + 3, seed=4)
    fine = weight_of(PanelForm(8, False, "int8"), 16, 21, seed=5)
    biases_of = normal(2 * WIDTH + 3, seed=6), normal(21, seed=7)
    first, second = product(wide, biases_of[0]), product(fine, biases_of[1])
    assert first.num_outputs is not None
    merged = Linear(first.weight, first.bias, first.num_outputs, first.scales, rest=(second,))
    assert merged.out_features == 2 * WIDTH + 24
    biases = torch.cat(biases_of)
    for tokens in (1, 7):
        x, ours = normal(tokens, DEPTH), torch.full((tokens, merged.out_features), float("nan"))
        OURS.linear(x, merged, ours)
        repeated, recorder, program = torch.empty_like(ours), Recorder(), Program()
        with recorder.recording(program):
            OURS.recorded_by(recorder).linear(x, merged, repeated)
        program.run()
        assert torch.equal(repeated, ours)
        expected = [multiplied(x, one.num_groups) @ one.dequantized().T for one in (wide, fine)]
        torch.testing.assert_close(ours, torch.cat(expected, dim=1) + biases, **CLOSE)


def test_the_check_at_load_passes_a_form_with_offsets_and_scales_of_blocks() -> None:
    assert products_verdict("float32", "silu", PanelForm(4, True, "int8")) is None


def test_gate_and_up_in_two_forms_are_gated_behind_their_products() -> None:
    gate, up = weight_of(PanelForm(4, False), 32, 40), weight_of(PanelForm(8, False), 32, 40)
    first = product(gate)
    merged = Linear(first.weight, None, first.num_outputs, first.scales, rest=(product(up),))
    x, products, ours, plain = normal(3, DEPTH), *(torch.empty(3, n) for n in (80, 40, 40))
    OURS.gated(x, merged, "silu", products, ours)
    full = Linear(torch.cat([gate.dequantized(), up.dequantized()]), None)
    PLAIN.gated(multiplied(x), full, "silu", torch.empty(3, 80), plain)
    torch.testing.assert_close(ours, plain, **CLOSE)
