"""Rates of workers, from samples of their counters."""

from dataclasses import replace

from common.messages import Role, WorkerInfo, WorkerLoad
from router.edge.live.rates import WorkerHistory, WorkerRates
from router.workers.view import WorkerState, WorkerView

INFO = WorkerInfo("decode-0", Role.DECODE, 1, "first", "tiny", 512, 259)
LOAD = WorkerLoad(blocks_total=16, blocks_free=16, block_size=16)
VIEW = WorkerView(INFO, LOAD, WorkerState.READY, "there", is_connected=True)


def at(steps: int) -> WorkerView:
    load = replace(LOAD, steps=steps, output_tokens=10 * steps, prefill_tokens=100 * steps)
    return replace(VIEW, load=load)


def test_a_rate_is_over_the_samples_of_about_a_second() -> None:
    history = WorkerHistory()
    history.note(0.0, [at(0)])
    assert history.rates("first") is None
    for number in range(1, 9):
        history.note(number / 4, [at(2 * number)])
    assert history.rates("first") == WorkerRates(8.0, 800.0, 80.0, 0.0)


def test_a_worker_that_started_anew_or_has_no_connection_has_no_rate() -> None:
    history = WorkerHistory()
    history.note(0.0, [at(5)])
    history.note(1.0, [replace(at(0), info=replace(INFO, incarnation="second"))])
    assert (history.rates("first"), history.rates("second")) == (None, None)
    history = WorkerHistory()
    history.note(0.0, [at(5)])
    history.note(1.0, [replace(at(6), is_connected=False)])
    assert history.rates("first") is None
