"""Every text is that of an undisturbed run, whatever fails and when; and nothing is left behind."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings

from tests.simulation.plan import Fault, Plan, Poison, Request, Result
from tests.simulation.plans import PLANS
from tests.simulation.virtual_loop import run
from tests.simulation.world import World

QUICK = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
MANY = settings(QUICK, max_examples=1000)
# each simulation takes 0.1 s: a few in `make test`, the others in `make test-slow`
FEW_MOMENTS, FEW_SEEDS = range(0, 60, 18), range(3)
MOMENTS = pytest.mark.parametrize(
    "moments",
    [
        FEW_MOMENTS,
        pytest.param(sorted({*range(0, 60, 6)} - {*FEW_MOMENTS}), marks=pytest.mark.slow),
    ],
    ids=["few", "others"],
)
SEEDS = pytest.mark.parametrize(
    "seeds", [FEW_SEEDS, pytest.param(range(3, 10), marks=pytest.mark.slow)], ids=["few", "others"]
)


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
@MOMENTS
def test_each_fault_at_each_moment(moments: Sequence[int], kind: str, worker: int) -> None:
    requests = tuple(Request(0.05 * number, 12 + 9 * number, 25) for number in range(4))
    for moment in moments:
        fault = Fault(moment / 40, kind, worker, for_s=0.7)
        result = simulate(Plan(moment, 1, 2, requests, (fault,)))
        assert result.outcomes == {kind: 1, "completed": 4}
        assert result.num_identical == 4


@pytest.mark.parametrize("is_supervised", [False, True])
@pytest.mark.parametrize("num_prefill", [0, 1])
@SEEDS
def test_every_death_of_a_request_s_workers_is_counted_once(
    seeds: range, num_prefill: int, is_supervised: bool
) -> None:
    requests = (Request(0.0, 21, 160), Request(0.0, 20, 5))
    kills = tuple(Fault(0.5 + 2.2 * number, "kill", num_prefill) for number in range(3))
    for seed in seeds:
        plan = Plan(seed, num_prefill, 1, requests, kills, "least_loaded", is_supervised, 2)
        assert simulate(plan).outcomes == {"kill": 3, "completed": 1, "poison": 1}


@pytest.mark.parametrize(
    ("num_prefill", "num_decode", "policy"),
    [(0, 1, "cost"), (0, 2, "least_loaded"), (1, 1, "least_loaded"), (1, 2, "cost")],
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_request_that_kills_its_workers_takes_no_neighbour_along(
    seed: int, num_prefill: int, num_decode: int, policy: str
) -> None:
    requests = tuple(Request(0.03 * number, 9 + 5 * number, 40) for number in range(6))
    # in its prompt, or when it has an output
    for poison in (Poison(2, 5), Poison(0, 20), Poison(3, 24 + 30)):
        plan = Plan(seed, num_prefill, num_decode, requests, (), policy, True, 2, poison)
        result = simulate(plan)
        assert result.outcomes == {"poison": 1, "completed": 5}
        # three deaths count; decode may run a prompt that has killed prefill
        assert 3 <= result.num_poisoned <= 3 * (1 + num_prefill)


def test_it_takes_none_along_while_workers_die_of_other_things_too() -> None:
    requests = tuple(Request(0.02 * number, 12, 30, num_choices=2) for number in range(4))
    kill = Fault(0.3, "kill", 0)
    for seed in range(6):
        plan = Plan(seed, 0, 2, requests, (kill,), max_worker_deaths=3, poison=Poison(1, 25))
        assert simulate(plan).outcomes == {"kill": 1, "poison": 1, "completed": 3}
