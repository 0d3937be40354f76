"""A tiny model measures itself, once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.engine.engine import Engine
from common.engine.profile_cache import load_or_measure
from common.engine.profiling import largest_step, measure_profile
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return make_engine(folder, engine_config())


def test_a_profile_is_sound_complete_and_leaves_no_block_taken(engine: Engine) -> None:
    profile = measure_profile(engine)
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
    profile = measure_profile(small)
    assert profile.is_sound()
    assert profile.row_counts[-1] == largest_step(small)
    small.pool.check_integrity([])


def test_without_time_only_what_is_needed_is_measured(engine: Engine) -> None:
    profile = measure_profile(engine, budget_s=0.0)
    assert profile.is_sound()
    assert profile.row_counts == (1, 8)


def file_of(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_second_start_reads_what_the_first_one_measured(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    first = load_or_measure(engine, 1, folder)
    assert load_or_measure(engine, 1, folder) == first
    fields = json.loads(file_of(folder).read_text())
    file_of(folder).write_text(json.dumps(fields | {"sample_s": 123.0}))
    assert load_or_measure(engine, 1, folder) == replace(first, sample_s=123.0)


def test_other_threads_and_other_settings_are_measured_apart(
    engine: Engine, tmp_path: Path
) -> None:
    load_or_measure(engine, 1, tmp_path)
    load_or_measure(engine, 2, tmp_path)
    other = replace(engine, config=engine.config.model_copy(update={"fusion": "off"}))
    load_or_measure(other, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"row_counts": [1], "row_seconds": [1.0]}', '{"row_counts": 1}']
)
def test_a_damaged_file_is_measured_again(engine: Engine, tmp_path: Path, content: str) -> None:
    load_or_measure(engine, 1, tmp_path)
    file_of(tmp_path).write_text(content)
    assert load_or_measure(engine, 1, tmp_path).is_sound()
    assert json.loads(file_of(tmp_path).read_text())["row_counts"] == [1, 8, 32, 128, 511]


def test_a_folder_that_cannot_be_made_only_costs_time(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load_or_measure(engine, 1, tmp_path / "file" / "profiles").is_sound()
