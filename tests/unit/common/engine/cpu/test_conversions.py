"""Two-byte numbers widen exactly, and float32 rounds to the nearest of them, ties to even; by every way.

Compared with torch's conversions, in bits; a NaN has only to stay one.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu import vector as vec
from common.engine.cpu.arrays import Array, as_array
from common.engine.cpu.emit import LANES
from common.engine.cpu.jit import Compiled, kernel
from common.engine.cpu.target import host_target

pytestmark = pytest.mark.skipif(not host_target().has_kernels, reason="torch's operations do it")
SHORTS = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
DTYPES = [torch.bfloat16, torch.float16]
STORAGE = {torch.bfloat16: types.uint16, torch.float16: types.int16}


class Kernels(NamedTuple):
    widen: Compiled  # (shorts, float32s)
    narrow: Compiled  # (float32s, shorts)


@kernel()
def _widen_each(shorts, out):  # type: ignore[no-untyped-def]
    for i in range(shorts.shape[0]):
        out[i] = vec.widen(shorts[i])


@kernel()
def _narrow_each(numbers, out):  # type: ignore[no-untyped-def]
    for i in range(numbers.shape[0]):
        out[i] = vec.narrow(out[i], numbers[i])


def moving(is_normal: bool) -> Any:
    """Make an intrinsic that moves LANES numbers from an array to another of any dtype."""

    @intrinsic
    def move(ctx, source, out, at):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
            data, to = (emit.array_data(context, builder, sig, args, i) for i in (0, 1))
            vector = emit.load(builder, data, args[2], sig.args[0])
            emit.store_as(builder, vector, to, args[2], sig.args[1], is_normal=is_normal)
            return context.get_dummy_value()

        return types.void(source, out, types.intp), generate

    return move


def vector_kernel(is_normal: bool) -> Compiled:
    move = moving(is_normal)

    @kernel(variant=f"is_normal={is_normal}")
    def convert(source, out):  # type: ignore[no-untyped-def]
        for at in range(0, source.shape[0], LANES):
            move(source, out, at)

    return convert


SCALAR = Kernels(_widen_each, _narrow_each)
VECTOR = Kernels(vector_kernel(False), vector_kernel(False))
WAYS = {"scalar": SCALAR, "vector": VECTOR}


def run(convert: Compiled, numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert numbers to another dtype by a kernel that takes whole vectors."""
    padded = torch.zeros(-(-len(numbers) // LANES) * LANES, dtype=numbers.dtype)
    padded[: len(numbers)] = numbers
    out = torch.zeros(len(padded), dtype=dtype)
    convert(as_array(padded), as_array(out))
    return out[: len(numbers)]


def bits(numbers: torch.Tensor) -> Array:
    whole = torch.int32 if numbers.dtype == torch.float32 else torch.int16
    found: Array = numbers.view(whole).numpy()
    return found


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Require the same bits, but for NaN."""
    is_nan = expected.isnan()
    assert torch.equal(ours.isnan(), is_nan)
    wrong = np.flatnonzero((bits(ours) != bits(expected)) & ~is_nan.numpy())
    assert len(wrong) == 0, f"{len(wrong)}: {ours[wrong[:5]]}, not {expected[wrong[:5]]}"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Kernels:
    return WAYS[request.param]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_short_value_widens_exactly(way: Kernels, dtype: torch.dtype) -> None:
    numbers = SHORTS.view(dtype)
    assert_same(run(way.widen, numbers, torch.float32), numbers.float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_short_value_comes_back_as_it_was(way: Kernels, dtype: torch.dtype) -> None:
    numbers = SHORTS.view(dtype)
    assert_same(run(way.narrow, numbers.float(), dtype), numbers)


def critical(dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """float32 numbers where rounding is decided: halfway between neighbours, and one ulp beside."""
    shorts = SHORTS.view(dtype)
    finite = shorts[shorts.isfinite() & ~shorts.signbit()].double().sort().values
    halfway = ((finite[1:] + finite[:-1]) / 2).float()
    # behind the last finite number: where infinity begins
    last = finite[-1] + (finite[-1] - finite[-2]) / 2
    for middle in (halfway, last.float().reshape(1)):
        for number in (middle, *(middle.nextafter(torch.tensor(to)) for to in (0.0, torch.inf))):
            yield number
            yield -number


def extremes() -> torch.Tensor:
    """Infinities, NaN of many payloads, zeros, the largest, and denormals of float32 of every magnitude."""
    patterns = [0x7F800000, 0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 0x00000000, 0x00800000, 0x007FFFFF]
    patterns += [0x7FC00000, 0x7F800001, 0x7F80FFFF, 0x7FBFFFFF, 0x7FFFFFFF, 0x7FFF8000]
    patterns += [(1 << k) + d for k in range(2, 24) for d in (-1, 0, 1)]
    patterns += [0x47000000 + (1 << k) * d for k in range(24) for d in (-1, 1)]  # near 2**15
    both = np.array([sign | pattern for pattern in patterns for sign in (0, 1 << 31)], np.uint32)
    return torch.from_numpy(both.view(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_rounds_to_nearest_even(way: Kernels, dtype: torch.dtype) -> None:
    anything = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    numbers = torch.cat([*critical(dtype), extremes(), torch.from_numpy(anything)])
    assert_same(run(way.narrow, numbers, dtype), numbers.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_that_are_not_denormal_may_take_the_cpus_own_rounding(dtype: torch.dtype) -> None:
    numbers = torch.cat([*critical(dtype), extremes()])
    smallest = torch.finfo(torch.float32).smallest_normal
    numbers = numbers[~(numbers.abs() < smallest) | (numbers == 0)]
    assert_same(run(vector_kernel(True), numbers, dtype), numbers.to(dtype))


def test_ties_go_to_even_by_hand() -> None:
    """1 + 2**-8 lies between 1 and 1 + 2**-7 in bfloat16; 1 + 3 * 2**-8 between that and 1 + 2**-6."""
    for way in WAYS.values():
        halves = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])
        assert run(way.narrow, halves, torch.bfloat16).tolist() == [1, 1 + 2**-6]
        halves = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11])
        assert run(way.narrow, halves, torch.float16).tolist() == [1, 1 + 2**-9]
