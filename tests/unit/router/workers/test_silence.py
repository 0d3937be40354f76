"""Silence of a worker on a fake clock: the loop's turns count, not the clock."""

from router.workers.silence import SILENT_AFTER_S, TICK_S, Silence


class SlowLoop:
    """An event loop on a fake clock whose every turn takes `turn_s`, with one worker that it hears."""

    def __init__(self, turn_s: float) -> None:
        self.silence = Silence()
        self.now_s = 0.0
        self.num_times_silent = 0
        self._turn_s = turn_s
        self._tick_at_s, self._report_at_s = TICK_S, 1.0

    def run(self, until_s: float, *, reports: bool) -> None:
        """Turn until this time; in each turn the worker's report comes first, if one is due."""
        while self.now_s < until_s:
            self.now_s += self._turn_s
            if reports and self.now_s >= self._report_at_s:
                self._report_at_s = self.now_s + 1.0
                self.silence.heard()
            if self.now_s >= self._tick_at_s:
                self._tick_at_s = self.now_s + TICK_S  # as asyncio.sleep: from when it was late
                self.num_times_silent += self.silence.tick()

    def stand_still(self, seconds: float) -> None:
        """Let time pass without a turn."""
        self.now_s += seconds


def test_a_worker_that_says_nothing_is_silent_after_the_limit_and_is_told_of_once() -> None:
    loop = SlowLoop(turn_s=0.001)
    loop.run(SILENT_AFTER_S - TICK_S, reports=False)
    assert (loop.silence.is_long, loop.num_times_silent) == (False, 0)
    loop.run(SILENT_AFTER_S + 0.1, reports=False)
    assert (loop.silence.is_long, loop.num_times_silent) == (True, 1)
    loop.run(60.0, reports=False)
    assert loop.num_times_silent == 1


def test_a_worker_that_reports_is_not_silent_and_may_become_so_again() -> None:
    loop = SlowLoop(turn_s=0.001)
    loop.run(20.0, reports=True)
    assert (loop.silence.is_long, loop.num_times_silent) == (False, 0)
    loop.run(30.0, reports=False)
    loop.run(31.1, reports=True)
    assert not loop.silence.is_long
    loop.run(40.0, reports=False)
    assert loop.num_times_silent == 2


def test_a_loop_that_stood_still_for_a_minute_does_not_blame_its_workers() -> None:
    loop = SlowLoop(turn_s=0.001)
    for _ in range(5):
        loop.run(loop.now_s + 0.9, reports=False)
        loop.stand_still(60.0)
        loop.run(loop.now_s + 1.1, reports=True)
    assert (loop.silence.is_long, loop.num_times_silent) == (False, 0)


def test_a_machine_that_is_20_times_slower_does_not_blame_its_workers() -> None:
    loop = SlowLoop(turn_s=20 * TICK_S)  # far longer than the limit between two reports
    assert 20 * TICK_S > SILENT_AFTER_S
    loop.run(1000.0, reports=True)
    assert (loop.silence.is_long, loop.num_times_silent) == (False, 0)
