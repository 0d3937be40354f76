"""Programs: kernels' calls are noted, then made in their order, as often as one likes."""

import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

from common.engine.cpu import program
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.parallel import in_parallel
from common.engine.cpu.program import Program, runner_by
from common.engine.cpu.recorder import Recorder
from common.engine.cpu.tape import run_notes
from common.engine.cpu.target import host_target
from common.engine.cpu.team import name_team
from common.engine.cpu.threads import limit_numba

pytestmark = [
    pytest.mark.skipif(not host_target().has_kernels, reason="no kernel is run here"),
    pytest.mark.usefixtures("threads"),
]
REPEATS = 200
_SCRIPT = "tests.unit.common.engine.cpu.count_threads"


@part()
def add_some(first, end, pair, by):  # type: ignore[no-untyped-def]
    source, target = pair
    for i in range(first, end):
        target[i] = source[i] + by


@kernel()
def add(source, target, by):  # type: ignore[no-untyped-def]
    in_parallel(source.shape[0], add_some, ((source, target), by))


@part()
def reverse_some(first, end, source, target):  # type: ignore[no-untyped-def]
    for i in range(first, end):
        target[i] = source[source.shape[0] - 1 - i]


@kernel()
def reverse(source, target):  # type: ignore[no-untyped-def]
    in_parallel(source.shape[0], reverse_some, (source, target))


@part()
def refuse_negative(first, end, numbers):  # type: ignore[no-untyped-def]
    for i in range(first, end):
        if numbers[i] < 0:
            raise ValueError


@kernel()
def require_positive(numbers):  # type: ignore[no-untyped-def]
    in_parallel(numbers.shape[0], refuse_negative, (numbers,))


@pytest.fixture(params=["team", "pool"])
def new_program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Program]:
    if request.param == "pool":
        monkeypatch.setattr(program, "_runner", lambda: runner_by(run_notes))
    elif not name_team():
        pytest.skip("numba's threads are not OpenMP's")
    return Program


def test_kernels_run_when_the_program_does_on_what_their_arrays_hold_then(
    new_program: type[Program],
) -> None:
    source, target = np.arange(5), np.zeros(5, np.int64)
    made = new_program()
    made.add(add, source, target, 10)
    assert not target.any()
    for shift in (0, 1, 2):
        source[:] = np.arange(5) + shift
        made.run()
        assert target.tolist() == [10 + shift + i for i in range(5)]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 64])
def test_each_task_sees_all_of_the_one_before(new_program: type[Program], length: int) -> None:
    numbers, turned = np.arange(length), np.zeros(length, np.int64)
    made = new_program()
    for _ in range(REPEATS):
        made.add(reverse, numbers, turned)
        made.add(add, turned, numbers, 1)
    made.run()
    # an even number of turns
    assert numbers.tolist() == [i + REPEATS for i in range(length)]


def test_a_part_of_one_run_may_stand_between_others(new_program: type[Program]) -> None:
    many, one = np.zeros(9, np.int64), np.zeros(1, np.int64)
    made = new_program()
    for _ in range(REPEATS):
        made.add(add, many[8:], one, 1)
        made.add(add, one, one, 1)
        made.add(add, many, many, 2)
        made.add(add, one, many[8:], 0)
    made.run()
    assert many.tolist() == [2 * REPEATS] * 8 + [2 * REPEATS]
    assert one.tolist() == [2 * REPEATS]


def test_other_calls_keep_their_place_between_kernels(new_program: type[Program]) -> None:
    numbers, seen = np.zeros(4, np.int64), list[int]()
    made = new_program()
    for _ in range(2):
        made.add(add, numbers, numbers, 1)
        made.add(lambda: seen.append(int(numbers[0])))
        made.add(add, numbers, numbers, 10)
    made.run()
    made.run()
    assert seen == [1, 12, 23, 34]
    assert numbers.tolist() == [44] * 4


def test_fewer_threads_than_were_noted_do_all_runs(
    new_program: type[Program], threads: int
) -> None:
    numbers = np.zeros(64, np.int64)
    made = new_program()
    made.add(add, numbers, numbers, 1)
    limit_numba(1)
    made.run()
    limit_numba(threads)
    made.run()
    assert numbers.tolist() == [2] * 64


def test_a_part_that_fails_is_an_error_of_this_run_alone(new_program: type[Program]) -> None:
    numbers, copy = np.array([1, -1, 1]), np.zeros(3, np.int64)
    made = new_program()
    made.add(require_positive, numbers)
    made.add(add, numbers, copy, 0)
    with pytest.raises(MemoryError):
        made.run()
    numbers[1] = 5
    made.run()
    assert copy.tolist() == [1, 5, 1]


def test_a_program_keeps_the_memory_that_it_uses(new_program: type[Program]) -> None:
    made, target = new_program(), np.zeros(1000, np.int64)
    made.add(add, np.full(1000, 7), target, 0)
    held = [np.zeros(1000, np.int64) for _ in range(10)]  # would take the memory of a freed one
    made.run()
    assert len(held) == 10
    assert set(target.tolist()) == {7}


def test_a_team_is_of_the_threads_of_the_pool_where_torch_has_its_own_openmp() -> None:
    """A second pool's threads would take the cores of the first one's, and no number would tell."""
    done = subprocess.run(
        [sys.executable, "-m", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 more threads"  # behind lines of the compiler


def test_calls_of_other_threads_are_made_while_one_records() -> None:
    mine, others, made = np.zeros(8, np.int64), np.zeros(8, np.int64), Program()
    limit = numba.get_num_threads()

    def add_often() -> None:
        limit_numba(limit)
        for _ in range(REPEATS):
            add(others, others, 1)

    thread = threading.Thread(target=add_often)
    thread.start()
    noted = 0
    while thread.is_alive() or not noted:
        made.add(add, mine, mine, 1)
        noted += 1
    thread.join()
    assert others.tolist() == [REPEATS] * 8
    assert not mine.any()
    made.run()
    assert mine.tolist() == [noted] * 8


def test_a_recorder_notes_calls_while_it_records_alone() -> None:
    recorder, made, seen = Recorder(), Program(), list[int]()
    recorder.call(seen.append, 1)
    with recorder.recording(made):
        recorder.call(seen.append, 2)
    recorder.call(seen.append, 3)
    made.run()
    assert seen == [1, 3, 2]


def test_a_kernel_that_cannot_be_noted_leaves_kernels_running() -> None:
    numbers, made = np.zeros(4, np.int64), Program()
    with pytest.raises(TypeError):
        made.add(add, numbers)
    add(numbers, numbers, 1)
    assert numbers.tolist() == [1] * 4
