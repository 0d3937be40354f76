import threading
from collections.abc import Callable, Iterator

import pytest

from common.worker import loop
from common.worker.loop import EngineLoop
from tests.patience import WITHIN_S


class Engine:
    """An engine with `work` steps waiting, which notes every call and its thread."""

    def __init__(self) -> None:
        self.work = 0
        self.calls: list[str] = []
        self.on_step: Callable[[], None] = lambda: None
        self.threads: set[int] = set()
        self.idle = threading.Event()
        self.crashed = threading.Event()
        self.crash: BaseException | None = None
        self.loop = EngineLoop("test", self.on_crash)

    def step(self) -> bool:
        self.threads.add(threading.get_ident())
        if self.work:
            self.work -= 1
            self.calls.append("step")
            self.on_step()
            return True
        return False

    def on_idle(self) -> None:
        self.threads.add(threading.get_ident())
        self.idle.set()

    def on_crash(self, error: BaseException) -> None:
        self.crash = error
        self.crashed.set()

    def start(self) -> None:
        self.loop.start(self.step, self.on_idle)

    def finish(self, message: Callable[[], None]) -> None:
        """Post, and wait until it has run."""
        done = threading.Event()

        def run() -> None:
            message()
            done.set()

        self.loop.post(run)
        assert done.wait(WITHIN_S)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(loop, "_IDLE_S", 0.02)
    engine = Engine()
    yield engine
    assert engine.loop.stop(WITHIN_S)


def _ignore(_: bool) -> None:
    pass


def add_work(engine: Engine, steps: int) -> None:
    """Add work, in the engine's thread, which had nothing to do before."""
    engine.idle.clear()
    engine.work += steps


def test_messages_run_in_order_in_the_engines_thread(engine: Engine) -> None:
    engine.start()
    seen: list[int] = []
    for number in range(20):
        engine.loop.post(lambda n=number: seen.append(n))  # type: ignore[misc]
    engine.finish(lambda: engine.threads.add(threading.get_ident()))
    assert seen == list(range(20))
    assert engine.threads == {engine.loop._thread.ident}


def test_a_message_runs_before_the_next_step(engine: Engine) -> None:
    """Messages do not wait, however much work is left."""

    def note() -> None:
        engine.calls.append("message")

    def start() -> None:
        add_work(engine, 4)
        engine.on_step = lambda: engine.loop.post(note)

    engine.start()
    engine.finish(start)
    assert engine.idle.wait(WITHIN_S)
    assert engine.calls == ["step", "message"] * 4


def test_all_work_is_done_without_another_nudge(engine: Engine) -> None:
    engine.start()
    engine.finish(lambda: add_work(engine, 50))
    assert engine.idle.wait(WITHIN_S)
    assert engine.calls == ["step"] * 50


def test_nothing_is_stepped_before_the_start(engine: Engine) -> None:
    engine.work = 2
    assert engine.loop.call(lambda: len(engine.calls), WITHIN_S) == 0
    engine.finish(lambda: None)
    assert engine.calls == []
    engine.start()
    assert engine.idle.wait(WITHIN_S)
    assert engine.calls == ["step", "step"]


def test_call_builds_in_the_thread_that_steps(engine: Engine) -> None:
    built_in = engine.loop.call(threading.get_ident, WITHIN_S)
    engine.start()
    assert engine.idle.wait(WITHIN_S)
    assert engine.threads == {built_in}


def test_what_a_call_raises_is_the_callers(engine: Engine) -> None:
    def fail() -> None:
        raise LookupError("no such model")

    with pytest.raises(LookupError, match="no such model"):
        engine.loop.call(fail, WITHIN_S)
    assert engine.crash is None
    engine.finish(lambda: None)


def test_another_start_hands_the_loop_over_between_two_steps(engine: Engine) -> None:
    engine.start()
    engine.finish(lambda: None)
    stepped_in: list[int] = []

    def other_step() -> bool:
        stepped_in.append(threading.get_ident())
        return False

    idle = threading.Event()
    engine.loop.start(other_step, idle.set)
    assert idle.wait(WITHIN_S)
    engine.work = 1
    engine.finish(lambda: None)
    assert set(stepped_in) == engine.threads
    assert engine.calls == []


@pytest.mark.parametrize("where", ["message", "step"])
def test_a_fault_ends_the_loop_and_is_reported(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail() -> bool:
        raise ZeroDivisionError(where)

    if where == "step":
        monkeypatch.setattr(engine, "step", fail)
    engine.start()
    if where == "message":
        engine.loop.post(lambda: _ignore(fail()))
    assert engine.crashed.wait(WITHIN_S)
    assert isinstance(engine.crash, ZeroDivisionError)
    assert engine.loop.stop(WITHIN_S)


def test_a_stuck_step_shows_as_age_and_an_idle_engine_does_not(engine: Engine) -> None:
    engine.start()
    engine.finish(lambda: None)
    entered, leave = threading.Event(), threading.Event()

    def stuck() -> bool:
        entered.set()
        leave.wait(WITHIN_S)
        return False

    engine.loop.start(stuck, engine.on_idle)
    assert entered.wait(WITHIN_S)
    assert engine.loop.progress_age_s > 0
    assert not engine.loop.stop(0.01)
    leave.set()
    assert engine.loop.stop(WITHIN_S)
    assert engine.loop.progress_age_s == 0


def test_a_loop_that_never_started_stops(engine: Engine) -> None:
    assert engine.loop.stop(WITHIN_S)
