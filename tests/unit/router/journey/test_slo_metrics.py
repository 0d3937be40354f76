"""Tests of goodput: who meets the objective, who misses which part, and who does not count."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from common.messages import WorkFailure
from common.router_config import RouterConfig
from pdserve.errors import Reason, RequestCancelledError, RequestError
from router.access.tenant import ANONYMOUS
from router.journey.slo_metrics import Slo, SloMetrics, SloResult
from tests.unit.router.journey.world import FIRST, World

EASY, HARD = 3600.0, 1e-9  # seconds


def counted(registry: CollectorRegistry) -> dict[str, float]:
    """Return the results that are not zero."""
    found = {
        result: registry.get_sample_value("pdserve_slo_requests_total", {"result": result})
        for result in SloResult
    }
    return {str(result): value for result, value in found.items() if value}


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "result"),
    [
        (1.0, 0.1, "met"),
        (1.0, None, "met"),
        (1.1, 0.1, "missed_ttft"),
        (1.1, None, "missed_ttft"),
        (1.0, 0.2, "missed_tpot"),
        (1.1, 0.2, "missed_both"),
    ],
)
def test_a_choice_is_judged_by_both_times(ttft_s: float, tpot_s: float | None, result: str) -> None:
    assert Slo(1.0, 0.1).judge(ttft_s, tpot_s) == result


def test_a_limit_that_is_unset_is_met_by_any_time() -> None:
    assert Slo(None, 0.1).judge(1e9, 0.1) is SloResult.MET
    assert Slo(1.0, None).judge(1.0, 1e9) is SloResult.MET


def test_a_request_counts_by_its_slowest_choices() -> None:
    registry = CollectorRegistry()
    metrics = SloMetrics(registry, Slo(1.0, 0.1))
    metrics.note_completed([(0.5, 0.05), (0.6, 0.2)])
    metrics.note_completed([(2.0, 0.05), (0.6, 0.2)])
    metrics.note_completed([(0.5, None), (0.6, 0.1)])
    assert counted(registry) == {"missed_tpot": 1, "missed_both": 1, "met": 1}


def test_the_objective_is_shown() -> None:
    registry = CollectorRegistry()
    SloMetrics(registry, Slo(1.5, None))
    name = "pdserve_slo_target_seconds"
    assert registry.get_sample_value(name, {"target": "ttft"}) == 1.5
    assert registry.get_sample_value(name, {"target": "tpot"}) is None


def test_without_an_objective_there_is_no_metric() -> None:
    registry = CollectorRegistry()
    metrics = SloMetrics(registry, Slo())
    metrics.note_completed([(1e9, 1e9)])
    metrics.note_left(1e9)
    metrics.note_failed()
    assert list(registry.collect()) == []


def world(tmp_path: Path, ttft_s: float, tpot_s: float | None = None) -> World:
    return World(tmp_path, RouterConfig(slo_ttft_s=ttft_s, slo_tpot_s=tpot_s))


def results(of: World) -> dict[str, float]:
    return counted(of.routed.metrics.registry)


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "expected"),
    [
        (EASY, EASY, {"met": 1}),
        (HARD, EASY, {"missed_ttft": 1}),
        (EASY, HARD, {"missed_tpot": 1}),
        (HARD, HARD, {"missed_both": 1}),
    ],
)
async def test_a_completed_request_is_counted_once(
    tmp_path: Path, ttft_s: float, tpot_s: float, expected: dict[str, float]
) -> None:
    played = world(tmp_path, ttft_s, tpot_s)
    await played.finish(await played.start_sent())
    assert results(played) == expected


async def test_a_failed_request_is_counted_as_failed(tmp_path: Path) -> None:
    played = world(tmp_path, EASY)
    task = await played.start_sent()
    played.routed.fail(FIRST, WorkFailure(Reason.KV_CAPACITY_EXCEEDED, "too long"))
    with pytest.raises(RequestError):
        await task
    assert results(played) == {"failed": 1}


@pytest.mark.parametrize(("ttft_s", "expected"), [(EASY, {}), (HARD, {"missed_ttft": 1})])
async def test_a_client_that_leaves_counts_only_if_its_first_token_was_late(
    tmp_path: Path, ttft_s: float, expected: dict[str, float]
) -> None:
    played = world(tmp_path, ttft_s)
    task = await played.start_sent()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert results(played) == expected


async def test_a_request_that_was_cancelled_counts_as_little(tmp_path: Path) -> None:
    played = world(tmp_path, EASY)
    task = await played.start_sent()
    played.journeys.cancel(ANONYMOUS, "r")
    with pytest.raises(RequestCancelledError):
        await task
    assert results(played) == {}
