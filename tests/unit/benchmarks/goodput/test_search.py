import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.goodput.search import (
    HIGHEST,
    LOWEST,
    Probes,
    goodput,
    nearest_rung,
    next_rung,
    rate_of,
)
from benchmarks.slo_attainment import Attainment


def probe(rung: int, percent: int) -> Attainment:
    return Attainment(rate_of(rung), percent, 100 - percent, 0, 0)


def measured(shares: dict[int, int]) -> Probes:
    return {rung: probe(rung, percent) for rung, percent in shares.items()}


def searched(last_passing: int, first: int) -> Probes:
    """Return the probes of a system that passes up to a rung, in the order taken."""
    probes: Probes = {}
    while (rung := next_rung(probes, first)) is not None:
        assert rung not in probes
        probes[rung] = probe(rung, 95 if rung <= last_passing else 70)
    return probes


def test_four_rungs_double_the_rate() -> None:
    assert [rate_of(rung) for rung in (-4, 0, 4, 8)] == [0.5, 1, 2, 4]
    assert all(nearest_rung(rate_of(rung)) == rung for rung in range(LOWEST, HIGHEST + 1))
    assert (nearest_rung(0.001), nearest_rung(1000)) == (LOWEST, HIGHEST)


def test_strides_widen_until_a_rung_fails_and_then_halve() -> None:
    assert list(searched(last_passing=8, first=4)) == [4, 5, 7, 10, 8, 9]
    assert list(searched(last_passing=1, first=4)) == [4, 3, 1, 2]
    assert list(searched(last_passing=4, first=4)) == [4, 5]


@settings(derandomize=True)
@given(st.integers(LOWEST - 1, HIGHEST), st.integers(LOWEST, HIGHEST))
def test_a_search_ends_with_the_neighbours_of_the_crossing(last_passing: int, first: int) -> None:
    probes = searched(last_passing, first)
    assert {last_passing, last_passing + 1} & set(range(LOWEST, HIGHEST + 1)) <= set(probes)
    assert all(LOWEST <= rung <= HIGHEST for rung in probes)
    assert len(probes) <= 14


def test_goodput_lies_where_the_line_between_the_neighbours_crosses_90_percent() -> None:
    assert goodput(measured({4: 95, 8: 85})) == pytest.approx(3.0)  # half way from 2 to 4
    assert goodput(measured({4: 92, 8: 84, 0: 100, 12: 0})) == pytest.approx(2.5)
    assert goodput(measured({4: 90, 8: 10})) == pytest.approx(2.0)


def test_off_the_ladder_goodput_is_what_has_been_shown() -> None:
    assert goodput(measured({LOWEST: 89})) == 0.0
    assert goodput(measured({4: 95, 8: 91})) == 4.0
