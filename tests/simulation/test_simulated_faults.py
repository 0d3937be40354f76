"""Every text is that of an undisturbed run, whatever fails and when; and nothing is left behind."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.simulation.plan import Fault, Plan, Request, Result
from tests.simulation.plans import PLANS
from tests.simulation.virtual_loop import run
from tests.simulation.world import World

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
MANY = settings(QUICK, max_examples=1000)


def simulate(plan: Plan) -> Result:
    async def main() -> Result:
        return await World(plan).run()

    return run(main)


@QUICK
@given(PLANS)
def test_no_fault_changes_a_text(plan: Plan) -> None:
    simulate(plan)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@MANY
@given(PLANS)
def test_no_fault_of_a_thousand_plans_changes_a_text(plan: Plan) -> None:
    simulate(plan)


@pytest.mark.parametrize("kind", ["kill", "cut", "silence", "hang", "evict"])
@pytest.mark.parametrize("worker", [0, 1, 2])
def test_each_fault_at_each_moment(kind: str, worker: int) -> None:
    requests = tuple(Request(0.05 * number, 12 + 9 * number, 25) for number in range(4))
    for moment in range(0, 60, 6):
        fault = Fault(moment / 40, kind, worker, for_s=0.7)
        result = simulate(Plan(moment, 1, 2, requests, (fault,)))
        assert result.outcomes == {kind: 1, "completed": 4}
        assert result.num_identical == 4


@pytest.mark.parametrize("is_supervised", [False, True])
@pytest.mark.parametrize("num_prefill", [0, 1])
def test_every_death_of_a_request_s_workers_is_counted_once(
    num_prefill: int, is_supervised: bool
) -> None:
    requests = (Request(0.0, 21, 160), Request(0.0, 20, 5))
    kills = tuple(Fault(0.5 + 2.2 * number, "kill", num_prefill) for number in range(3))
    for seed in range(10):
        plan = Plan(seed, num_prefill, 1, requests, kills, "least_loaded", is_supervised, 2)
        assert simulate(plan).outcomes == {"kill": 3, "completed": 1, "poison": 1}
