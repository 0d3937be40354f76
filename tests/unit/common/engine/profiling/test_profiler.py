"""A tiny model is measured."""

import time
from pathlib import Path

import pytest

from common.engine.build import Engine
from common.engine.profiling.profiler import is_complete, measure_trials, to_profile
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return make_engine(folder, engine_config())


def test_a_profile_is_sound_complete_and_leaves_no_block_taken(engine: Engine) -> None:
    seconds = measure_trials(engine)
    assert is_complete(engine, seconds)
    profile = to_profile(engine, seconds)
    assert profile.is_sound()
    # 512 positions in the context, one of them for the token to run
    assert profile.row_counts == (1, 8, 32, 128, 511)
    assert profile.row_seconds[0] > 0
    assert profile.copy_out_byte_s > 0
    assert profile.insert_byte_s > 0
    assert profile.kv_bytes_per_token == 512
    assert (profile.max_batch_tokens, profile.max_num_seqs) == (512, 64)
    engine.pool.check_integrity([])


@pytest.mark.parametrize(
    ("num_blocks", "block_size", "max_batch_tokens"), [(2, 5, 512), (2, 256, 2), (9, 1, 512)]
)
def test_the_smallest_memories_can_be_measured(
    folder: Path, num_blocks: int, block_size: int, max_batch_tokens: int
) -> None:
    config = engine_config(
        num_blocks=num_blocks,
        block_size=block_size,
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=1,
    )
    small = make_engine(folder, config)
    seconds = measure_trials(small)
    assert is_complete(small, seconds)
    assert to_profile(small, seconds).is_sound()
    small.pool.check_integrity([])


def test_without_time_only_what_is_needed_is_measured(engine: Engine) -> None:
    seconds = measure_trials(engine, budget_s=0.0)
    assert not is_complete(engine, seconds)
    profile = to_profile(engine, seconds)
    assert profile.is_sound()
    assert profile.row_counts == (1, 8)


def test_a_slow_machine_gets_more_time_for_its_largest_steps(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(
        range(1_000_000)
    )  # each look at the clock is a second later, so each trial takes one
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert is_complete(engine, measure_trials(engine, budget_s=12.0))
    assert not is_complete(engine, measure_trials(engine, budget_s=4.0))
