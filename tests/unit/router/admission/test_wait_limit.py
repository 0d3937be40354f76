"""A single server on a virtual clock: what is let in runs in turn, `SERVICE_S` each."""

from dataclasses import replace

import pytest

from pdserve.errors import OverloadedError, Reason
from router.admission.wait_limit import SHORT_WAIT_S, Forecast, Kind, WaitLimit

MAX_WAIT_S, SERVICE_S = 10.0, 0.25
TTFT_SLO_S = 1.5


class Server:
    """Lets requests in by a WaitLimit."""

    def __init__(self, max_wait_s: float | None = MAX_WAIT_S, answer_s: float = 0.0) -> None:
        self.limit = WaitLimit(max_wait_s)
        self.answer_s = answer_s
        self.busy_until_s = 0.0
        self.ttfts_s: list[tuple[float, float]] = []  # (arrival, TTFT) of those let in

    def wait_s(self, now_s: float) -> float:
        return max(self.busy_until_s - now_s, 0.0)

    def offer(self, now_s: float, timeout_s: float | None = None, *, over: bool = False) -> None:
        wait_s = self.wait_s(now_s)
        forecast = Forecast(wait_s, SERVICE_S, self.answer_s, round(wait_s / SERVICE_S))
        self.limit.check(forecast, timeout_s, now_s, is_over_share=over)
        self.busy_until_s = now_s + wait_s + SERVICE_S
        self.ttfts_s.append((now_s, wait_s + SERVICE_S))

    def load(self, rate: float, start_s: float, end_s: float, timeout_s: float | None) -> int:
        """Arrivals at `rate` times the capacity, at even gaps; how many were refused."""
        gap_s, refused = SERVICE_S / rate, 0
        for number in range(round((end_s - start_s) / gap_s)):
            try:
                self.offer(start_s + number * gap_s, timeout_s)
            except OverloadedError:
                refused += 1
        return refused

    def goodput(self, start_s: float, end_s: float) -> float:
        """Return the part of the capacity used by arrivals with a first token in time."""
        met = [t for t, ttft_s in self.ttfts_s if start_s <= t < end_s and ttft_s <= TTFT_SLO_S]
        return len(met) * SERVICE_S / (end_s - start_s)


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_ten_times_the_capacity_is_served_in_time_once_the_queue_is_short(
    timeout_s: float | None,
) -> None:
    """The onset costs what was let in before anybody was refused: ten seconds' worth, or a deadline's."""
    server = Server()
    assert server.load(10.0, 0.0, 60.0, timeout_s) > 2000
    longest_s = max(ttft_s for _, ttft_s in server.ttfts_s)
    assert longest_s <= (timeout_s or MAX_WAIT_S + SERVICE_S)
    assert server.goodput(longest_s, 60.0) > 0.98


@pytest.mark.parametrize("unlimited", [None, 0.0])
def test_without_the_limit_everybody_waits_and_nobody_is_served_in_time(
    unlimited: float | None,
) -> None:
    server = Server(unlimited)
    assert server.load(10.0, 0.0, 60.0, None) == 0
    assert server.wait_s(60.0) > 500
    assert server.goodput(5.0, 60.0) == 0


@pytest.mark.parametrize("unlimited", [None, 0.0])
def test_without_the_limit_a_refused_deadline_makes_nobody_s_queue_short(
    unlimited: float | None,
) -> None:
    server = Server(unlimited)
    assert server.load(10.0, 0.0, 60.0, 5.0) > 2000
    server.offer(60.0)
    server.offer(60.0, over=True)
    with pytest.raises(OverloadedError) as caught:
        server.offer(60.0, 5.0)
    assert caught.value.reason is Reason.DEADLINE_UNREACHABLE


def test_a_burst_is_served_whole_and_so_is_the_next_one() -> None:
    server = Server()
    for start_s in (0.0, 20.0):
        for _ in range(40):  # ten seconds of work at once
            server.offer(start_s)
    assert len(server.ttfts_s) == 80


def test_the_queue_may_be_long_again_when_none_has_met_a_longer_one_for_a_while() -> None:
    server = Server()
    server.load(10.0, 0.0, 3.0, None)
    # eight of the ten seconds are there when the load has ended
    with pytest.raises(OverloadedError, match=r"8\.\d\d s before they run, more than 1\.00 s"):
        server.offer(3.0)
    for number in range(20):
        server.offer(12.9 + number * SERVICE_S)  # short waits are no reason
    for _ in range(20):
        server.offer(20.0)
    assert server.wait_s(20.0) > 4 * SHORT_WAIT_S


def test_one_prompt_ahead_is_no_queue_however_long_it_is() -> None:
    limit = WaitLimit(MAX_WAIT_S)
    limit.check(Forecast(60.0, 60.0, 0.0, 1), None, 0.0, is_over_share=False)
    with pytest.raises(OverloadedError, match="more than 10"):
        limit.check(Forecast(60.0, 60.0, 0.0, 2), None, 0.0, is_over_share=False)
    limit.check(Forecast(60.0, 60.0, 0.0, 1), None, 1.0, is_over_share=True)
    with pytest.raises(OverloadedError, match=r"more than 0\.50"):
        limit.check(Forecast(0.6, 60.0, 0.0, 2), None, 1.0, is_over_share=True)


def test_who_is_refused_for_its_share_alone_makes_nobody_else_s_queue_short() -> None:
    limit = WaitLimit(MAX_WAIT_S)
    with pytest.raises(OverloadedError, match=r"more than 5\.00"):
        limit.check(Forecast(6.0, 6.0, 0.0, 2), None, 0.0, is_over_share=True)
    limit.check(Forecast(9.0, 6.0, 0.0, 2), None, 0.0, is_over_share=False)


@pytest.mark.parametrize(
    ("other", "limit_s"),
    [
        pytest.param(Kind.of(0, 30), 10, id="short"),
        pytest.param(Kind.of(0, 5000), 10, id="longer"),
        pytest.param(Kind.of(-1, 2600), 10, id="urgent"),
        pytest.param(Kind.of(1, 2600), 10, id="of less urgency"),
        pytest.param(Kind.of(0, 2048), 1, id="alike"),
        pytest.param(Kind.of(0, 4095), 1, id="alike, longer"),
    ],
)
@pytest.mark.parametrize("timeout_s", [None, 12.0])
def test_a_refusal_makes_the_queue_short_for_its_kind_alone(
    other: Kind, limit_s: int, timeout_s: float | None
) -> None:
    limit, long = WaitLimit(MAX_WAIT_S), Forecast(17.0, 6.0, 0.0, 3, Kind.of(0, 2600))
    with pytest.raises(OverloadedError):
        limit.check(long, timeout_s, 0.0, is_over_share=False)
    forecast = replace(long, wait_s=limit_s - 0.1, kind=other)
    limit.check(forecast, None, 1.0, is_over_share=False)
    with pytest.raises(OverloadedError, match=f"more than {limit_s}"):
        limit.check(replace(forecast, wait_s=limit_s + 0.1), None, 1.0, is_over_share=False)


def test_each_kind_s_queue_is_long_again_by_itself() -> None:
    limit = WaitLimit(MAX_WAIT_S)
    long, short = (Forecast(17.0, 1.0, 0.0, 9, Kind.of(0, n)) for n in (2600, 30))
    for now_s, refused in ((0.0, long), (5.0, short)):
        with pytest.raises(OverloadedError):
            limit.check(refused, None, now_s, is_over_share=False)
    limit.check(replace(long, wait_s=9.0), None, 10.1, is_over_share=False)
    with pytest.raises(OverloadedError, match=r"more than 1\.00"):
        limit.check(replace(short, wait_s=9.0), None, 10.1, is_over_share=False)


def test_a_limit_of_minutes_is_not_short_for_minutes_after_one_refusal() -> None:
    limit, long = WaitLimit(600.0), Forecast(500.0, 1.0, 0.0, 99)
    with pytest.raises(OverloadedError, match=r"more than 600\.00"):
        limit.check(replace(long, wait_s=601.0), None, 0.0, is_over_share=False)
    with pytest.raises(OverloadedError, match=r"more than 1\.00"):
        limit.check(long, None, 5.0, is_over_share=False)
    limit.check(long, None, 15.1, is_over_share=False)


def test_a_limit_below_the_short_one_is_not_made_longer_or_shorter() -> None:
    limit = WaitLimit(0.5)
    for now_s in (0.0, 0.1):
        limit.check(Forecast(0.5, 0.1, 0.0, 5), None, now_s, is_over_share=False)
        with pytest.raises(OverloadedError, match=r"more than 0\.50"):
            limit.check(Forecast(0.6, 0.1, 0.0, 5), None, now_s, is_over_share=False)


def test_an_answer_that_would_end_too_late_makes_room_where_others_wait() -> None:
    """Alone it gets what time there is."""
    server = Server(answer_s=4.0)
    server.offer(0.0, 3.0)
    with pytest.raises(OverloadedError, match=r"last token is expected in 4\.5") as caught:
        server.offer(0.0, 4.0)
    assert caught.value.reason is Reason.DEADLINE_UNREACHABLE
    assert caught.value.retry_after_s == pytest.approx(0.5)
    server.offer(0.0, 4.6)


def test_who_could_not_be_served_behind_a_short_queue_either_makes_none_shorter() -> None:
    server = Server()
    for _ in range(12):
        server.offer(0.0)
    for timeout_s in (0.1, 0.5, 1.2):  # less than a second to wait
        with pytest.raises(OverloadedError):
            server.offer(0.0, timeout_s)
    server.offer(0.0)
    with pytest.raises(OverloadedError):
        server.offer(0.0, SHORT_WAIT_S + SERVICE_S + 0.1)
    with pytest.raises(OverloadedError, match=r"more than 1\.00 s"):
        server.offer(0.0)
