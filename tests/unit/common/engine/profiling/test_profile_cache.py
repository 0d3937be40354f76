"""Measurements are kept, and taken again when they turned out wrong."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.engine.build import Engine
from common.engine.profiling.profile_cache import ProfileCache
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model

DAY_S = 86_400
START = datetime(2026, 1, 1, tzinfo=UTC)
# of a chunk of 64 tokens, near and 447 positions (what fits before it) far; of 8 sequences; of a copy
ROWS = {"rows 1": 1.0, "rows 8": 8.0, "rows 32": 32.0, "rows 128": 128.0, "rows 511": 511.0}
OTHERS = {"near": 64.0, "far": 64.0, "short": 16.0, "long": 16.0, "copy out": 2.0, "insert": 3.0}
SECONDS = ROWS | OTHERS


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return make_engine(save_model(tmp_path_factory.mktemp("llama"), "llama"), engine_config())


def cache_of(engine: Engine, folder: Path, now_s: float = 0.0) -> ProfileCache:
    return ProfileCache(engine, 1, folder, lambda: START + timedelta(seconds=now_s))


def file_of(folder: Path) -> Path:
    (file,) = folder.glob("*.json")
    return file


def times(folder: Path) -> list[float]:
    """Return the times of the kept measurements, in seconds from START."""
    taken = (datetime.fromisoformat(m["at"]) for m in json.loads(file_of(folder).read_text()))
    return [(at - START).total_seconds() for at in taken]


def keep(engine: Engine, folder: Path, *measured: tuple[float, dict[str, float]]) -> None:
    """Write measurements as if taken at these times."""
    kept = [
        {"at": (START + timedelta(seconds=at_s)).isoformat(), "seconds": SECONDS | changes}
        for at_s, changes in measured
    ]
    cache_of(engine, folder)._path.write_text(json.dumps(kept))


def test_a_second_start_reads_what_the_first_one_measured(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    first = cache_of(engine, folder).load_or_measure()
    assert cache_of(engine, folder, 9 * DAY_S).load_or_measure() == first
    assert times(folder) == [0.0]


def test_of_several_measurements_each_trials_fastest_run_counts(
    engine: Engine, tmp_path: Path
) -> None:
    busy_twice = (1.0, {"rows 8": 80.0, "insert": 30.0}), (2.0, {"rows 511": 9999.0, "short": 99.0})
    keep(engine, tmp_path, *busy_twice)
    profile = cache_of(engine, tmp_path).load_or_measure()
    assert profile.row_counts == (1, 8, 32, 128, 511)
    assert profile.row_seconds == (1.0, 8.0, 32.0, 128.0, 511.0)
    assert (profile.sample_s, profile.position_s, profile.pair_s) == (1.0, 0.0, 0.0)  # (16 - 8) / 8
    assert (profile.copy_out_byte_s, profile.insert_byte_s) == (2.0 / 131_072, 3.0 / 131_072)


def test_a_mark_has_one_later_start_measure_again(engine: Engine, tmp_path: Path) -> None:
    keep(engine, tmp_path, (1.0, {}))
    cache_of(engine, tmp_path).mark_stale()
    profile = cache_of(engine, tmp_path, 60.0).load_or_measure()
    assert times(tmp_path) == [1.0, 60.0]
    assert profile.row_seconds[-1] < 511.0
    assert cache_of(engine, tmp_path, 120.0).load_or_measure() == profile
    assert times(tmp_path) == [1.0, 60.0]


def test_where_marks_come_back_it_is_measured_once_a_day(engine: Engine, tmp_path: Path) -> None:
    keep(engine, tmp_path, (1.0, {}), (2.0, {}), (3.0, {}))
    cache_of(engine, tmp_path).mark_stale()
    for now_s in (4.0, DAY_S + 2.0):
        assert cache_of(engine, tmp_path, now_s).load_or_measure().row_seconds[-1] == 511.0
    assert times(tmp_path) == [1.0, 2.0, 3.0]
    cache_of(engine, tmp_path, DAY_S + 3.0).load_or_measure()
    assert times(tmp_path) == [2.0, 3.0, DAY_S + 3.0]


def test_a_measurement_from_the_future_is_no_reason_to_wait(engine: Engine, tmp_path: Path) -> None:
    keep(engine, tmp_path, *((1e8, {}) for _ in range(3)))
    cache_of(engine, tmp_path).mark_stale()
    cache_of(engine, tmp_path, 5.0).load_or_measure()
    assert times(tmp_path) == [1e8, 1e8, 5.0]


def test_other_threads_and_other_settings_are_measured_apart(
    engine: Engine, tmp_path: Path
) -> None:
    other = replace(engine, config=engine.config.model_copy(update={"fusion": "off"}))
    for measured, num_threads in ((engine, 1), (engine, 2), (other, 1)):
        ProfileCache(measured, num_threads, tmp_path).load_or_measure()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", "[1]", '{"row_counts": [1], "row_seconds": [1.0]}', "[{}]"),
        '[{"at": "2026-01-01T00:00:00+00:00", "seconds": {"rows 511": 1}}]',
        json.dumps([{"at": "yesterday", "seconds": SECONDS}]),
        json.dumps([{"at": START.isoformat(), "seconds": SECONDS | {"rows 8": float("nan")}}]),
        json.dumps([{"at": START.isoformat(), "seconds": SECONDS | {"rows 8": "8"}}]),
    ],
)
def test_a_damaged_file_is_measured_again(engine: Engine, tmp_path: Path, content: str) -> None:
    keep(engine, tmp_path)
    file_of(tmp_path).write_text(content)
    assert cache_of(engine, tmp_path, 7.0).load_or_measure().is_sound()
    assert times(tmp_path) == [7.0]


def test_a_folder_that_cannot_be_made_only_costs_time(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = cache_of(engine, tmp_path / "file" / "profiles")
    cache.mark_stale()
    assert cache.load_or_measure().is_sound()
