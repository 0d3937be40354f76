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


def simulate(plan: Plan) -> Result:
    async def main() -> Result:
        return await World(plan).run()

    return run(main)


@QUICK
@given(PLANS)
def test_no_fault_changes_a_text(plan: Plan) -> None:
    simulate(plan)


@pytest.mark.parametrize("kind", ["kill", "cut", "silence", "hang"])
@pytest.mark.parametrize("worker", [0, 1, 2])
def test_each_fault_at_each_moment(kind: str, worker: int) -> None:
    requests = tuple(Request(0.05 * number, 12 + 9 * number, 25) for number in range(4))
    for moment in range(0, 60, 3):
        fault = Fault(moment / 40, kind, worker, for_s=0.7)
        result = simulate(Plan(moment, 1, 2, requests, (fault,)))
        assert result.outcomes == {kind: 1, "completed": 4}
        assert result.num_identical == 4
