"""Both backends against the formula, over ragged batches in poisoned memory."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import Backend
from common.engine.attention.select import select_backend
from common.engine.memory.kv_cache import KVCache
from common.engine.model_spec import ModelSpec
from pdserve.errors import SetupError
from tests.examples import examples
from tests.unit.common.engine.attention.paged import Shape, Step, Turn, attend_dense, attend_paged

SHAPES = [
    Shape(16, 64, num_heads=6, num_kv_heads=2, dtype="bfloat16"),
    Shape(16, 16, num_heads=4, num_kv_heads=2),
    Shape(16, 16, num_heads=4, num_kv_heads=4),
    Shape(16, 128, num_heads=2, num_kv_heads=1),
    Shape(16, 16, num_heads=4, num_kv_heads=2, dtype="bfloat16", kv_quantization="int8"),
    Shape(16, 16, num_heads=4, num_kv_heads=2, kv_quantization="int8"),
    Shape(16, 16, num_heads=4, num_kv_heads=2, dtype="float16"),
]
# a kernel more each: sizes that others have one by one, and more heads to a KV head
SLOW_SHAPES = [
    Shape(32, 64, num_heads=4, num_kv_heads=1, dtype="bfloat16"),
    Shape(32, 128, num_heads=4, num_kv_heads=1),
    Shape(16, 64, num_heads=6, num_kv_heads=2, dtype="bfloat16", kv_quantization="int8"),
    Shape(16, 64, num_heads=14, num_kv_heads=2, dtype="bfloat16"),
    Shape(16, 32, num_heads=10, num_kv_heads=2, dtype="bfloat16", kv_quantization="int8"),
    Shape(16, 32, num_heads=32, num_kv_heads=2, dtype="bfloat16"),
]
BACKENDS: list[Backend] = ["cpu", "reference"]
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}

decode_turns = st.builds(Turn, st.integers(1, 90), st.just(1), st.integers(0, 99))
chunk_turns = st.builds(Turn, st.integers(0, 60), st.integers(2, 50), st.integers(0, 99))
batches = st.lists(st.one_of(decode_turns, chunk_turns), min_size=1, max_size=5)
steps = st.builds(Step, st.sampled_from([0.125, 0.5]), st.none() | st.integers(1, 100))


def name_of(s: Shape) -> str:
    sizes = f"{s.block_size}-{s.head_dim}-{s.num_heads}:{s.num_kv_heads}"
    return f"{sizes}-{s.dtype}-{s.kv_quantization}"


def each(values: Iterable[object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shape", values, ids=name_of)


@pytest.mark.parametrize("backend", BACKENDS)
@each([*SHAPES, *(pytest.param(shape, marks=pytest.mark.slow) for shape in SLOW_SHAPES)])
@settings(deadline=None, derandomize=True, max_examples=examples(10))
@given(batches, steps)
def test_a_ragged_batch_gives_what_the_formula_gives(
    backend: Backend, shape: Shape, turns: list[Turn], step: Step
) -> None:
    tolerance = TOLERANCE[shape.dtype]
    for turn, output in zip(turns, attend_paged(backend, shape, turns, step), strict=True):
        expected = attend_dense(shape, turn, step)
        torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, derandomize=True, max_examples=examples(10))
@given(batches, steps)
def test_the_rows_that_sample_do_not_depend_on_whether_the_others_are_wanted(
    backend: Backend, turns: list[Turn], step: Step
) -> None:
    of_all = attend_paged(backend, SHAPES[1], turns, step)
    of_some = attend_paged(backend, SHAPES[1], turns, replace(step, sampled_only=True))
    for every, some in zip(of_all, of_some, strict=True):
        assert torch.equal(some[-1], every[-1])


@pytest.mark.parametrize("backend", BACKENDS)
@each([*SHAPES[:2], *SHAPES[-2:]])
@pytest.mark.parametrize("context", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129, 700])
def test_contexts_that_end_at_the_edges_of_blocks_and_tiles(
    backend: Backend, shape: Shape, context: int
) -> None:
    tolerance = TOLERANCE[shape.dtype]
    turns = [Turn(context - 1, 1, seed=1), Turn(0, context, seed=2)]
    for turn, output in zip(turns, attend_paged(backend, shape, turns), strict=True):
        torch.testing.assert_close(
            output.double(), attend_dense(shape, turn), atol=tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_of_one_sees_itself_alone(backend: Backend) -> None:
    turns = [Turn(40, 1, seed=1), Turn(7, 20, seed=2)]
    outputs = attend_paged(backend, SHAPES[1], turns, Step(window=1))
    for turn, output in zip(turns, outputs, strict=True):
        own = turn.keys_values(SHAPES[1])[1, turn.computed :]
        torch.testing.assert_close(output, own.repeat_interleave(2, dim=1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_far_apart_do_not_overflow(backend: Backend) -> None:
    turns = [Turn(90, 1, seed=1), Turn(3, 30, seed=2)]
    step = Step(scale=500.0)
    for turn, output in zip(turns, attend_paged(backend, SHAPES[1], turns, step), strict=True):
        torch.testing.assert_close(
            output.double(), attend_dense(SHAPES[1], turn, step), atol=1e-3, rtol=1e-3
        )


def make_cache(block_size: int, head_dim: int) -> KVCache:
    spec = ModelSpec(1, 1, 1, head_dim, 1, 1, frozenset(), "float32", "")
    return KVCache(spec, 2, block_size, torch.device("cpu"))


def test_auto_takes_the_kernel_where_it_fits_and_the_reference_elsewhere() -> None:
    assert select_backend("auto", make_cache(16, 16), 1).name == "cpu"
    assert select_backend("auto", make_cache(12, 16), 1).name == "reference"
    assert select_backend("auto", make_cache(16, 20), 1).name == "reference"


@pytest.mark.parametrize("name", ["cpu", "flash"])
def test_a_backend_that_does_not_fit_is_refused_with_those_that_do(name: Backend) -> None:
    with pytest.raises(SetupError, match=r"12 positions and heads of 64 .*has: reference"):
        select_backend(name, make_cache(12, 64), 1)
