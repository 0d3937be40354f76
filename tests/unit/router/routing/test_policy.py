from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.profile import Correction, WorkerProfile
from router.routing.policy import CostBased, Decision, LeastLoaded, Local, RoundRobin, make_policy
from router.routing.prediction import Ask, Candidate, Route, predict

ASK = Ask(num_prompt_tokens=10, num_output_tokens=10)
no_deadline = settings(deadline=None, derandomize=True)
profiles = st.builds(
    WorkerProfile,
    row_seconds=st.tuples(st.floats(0.001, 1), st.floats(1, 9)),
    pair_s=st.floats(0, 1e-3),
    correction=st.builds(Correction, *[st.floats(0.1, 10)] * 5),
    max_num_seqs=st.integers(1, 8),
)
candidates = st.builds(
    Candidate,
    name=st.text("abc", min_size=1, max_size=3),
    num_sequences=st.integers(0, 12),
    backlog_tokens=st.sampled_from((0, 1, 700)),
    blocks_free=st.integers(0, 4),
    blocks_total=st.just(4),
    block_size=st.just(16),
    num_cached_tokens=st.integers(0, 9),
    profile=profiles,
)
pools = st.lists(candidates, max_size=5, unique_by=lambda candidate: candidate.name)


def worker(name: str, sequences: int = 0, tokens: int = 0, free: int = 100) -> Candidate:
    return Candidate(name, sequences, tokens, free, 100, 16)


def choose(prefill: Sequence[Candidate], decode: Sequence[Candidate]) -> Route | None:
    decision = LeastLoaded().choose(ASK, prefill, decode)
    return decision.route if decision else None


def routes(decision: Decision) -> list[Route]:
    return [cost.route for cost in (decision.chosen, *decision.others)]


def test_prefill_goes_by_waiting_tokens_and_decode_by_sequences() -> None:
    prefill = [worker("p0", sequences=0, tokens=900), worker("p1", sequences=9, tokens=20)]
    decode = [worker("d0", sequences=5, tokens=0), worker("d1", sequences=2, tokens=700)]
    assert choose(prefill, decode) == Route(decode="d1", prefill="p1")


def test_as_many_sequences_then_the_one_with_more_free_blocks() -> None:
    decode = [worker("d0", 2, free=5), worker("d1", 2, free=6), worker("d2", 2, free=6)]
    assert choose([], decode) == Route("d1")


@pytest.mark.parametrize("backwards", [False, True])
def test_a_tie_goes_to_the_first_name_in_whatever_order_they_come(backwards: bool) -> None:
    prefill, decode = [worker("p0"), worker("p1")], [worker("d0"), worker("d1")]
    if backwards:
        prefill, decode = prefill[::-1], decode[::-1]
    assert choose(prefill, decode) == Route("d0", "p0")


def test_without_a_prefill_worker_decode_does_both() -> None:
    assert choose([], [worker("d0")]) == Route("d0", prefill=None)


@no_deadline
@given(pools, pools)
def test_nobody_with_less_to_do_is_passed_over(
    prefill: list[Candidate], decode: list[Candidate]
) -> None:
    route = choose(prefill, decode)
    if not decode:
        assert route is None
        return
    assert route is not None
    target = next(c for c in decode if c.name == route.decode)
    assert target.num_sequences == min(c.num_sequences for c in decode)
    if prefill:
        source = next(c for c in prefill if c.name == route.prefill)
        assert source.backlog_tokens == min(c.backlog_tokens for c in prefill)
    assert route == choose(prefill[::-1], decode[::-1])


def test_local_leaves_an_idle_prefill_pool_alone_and_shares_the_decode_workers() -> None:
    decode = [worker("d0", sequences=5), worker("d1", sequences=2, tokens=700)]
    decision = Local().choose(ASK, [worker("p0")], decode)
    assert decision
    assert decision.route == Route("d1", prefill=None)
    assert decision.num_routes == 4  # those not taken stay explained


def test_round_robin_takes_each_pool_in_turn() -> None:
    policy = RoundRobin()
    prefill, decode = [worker("p1"), worker("p0")], [worker(f"d{n}") for n in (2, 0, 1)]
    taken = [policy.choose(replace(ASK, turn=turn), prefill, decode) for turn in range(6)]
    assert [decision.route for decision in taken if decision] == [
        Route("d0", "p0"),
        Route("d1", "p1"),
        Route("d2", "p0"),
        Route("d0", "p1"),
        Route("d1", "p0"),
        Route("d2", "p1"),
    ]
    for _ in range(2):  # asking alone takes no turn
        alone = policy.choose(ASK, [], decode)
        assert alone
        assert alone.route == Route("d0")


@pytest.mark.parametrize("name", ["cost", "least_loaded", "round_robin", "local"])
def test_without_a_decode_worker_no_policy_has_a_route(name: str) -> None:
    policy = make_policy(name)  # type: ignore[arg-type]  # the parameter's type is text
    assert policy.choose(ASK, [worker("p0")], []) is None
    decision = policy.choose(ASK, [worker("p0")], [worker("d0")])
    assert decision
    assert decision.policy == name


@no_deadline
@given(st.integers(10, 3000), st.integers(1, 300), st.floats(0, 5), pools, pools)
def test_the_cost_based_choice_is_never_costlier_than_another(
    num_prompt: int, num_output: int, rate: float, prefill: list[Candidate], decode: list[Candidate]
) -> None:
    ask = Ask(num_prompt, num_output, rate)
    decision = CostBased().choose(ask, prefill, decode)
    costs = list(predict(ask, prefill, decode))
    assert len(costs) == len(decode) * (len(prefill) + 1)
    if not decode:
        assert decision is None
        return
    assert decision
    assert decision.chosen.total_s == min(cost.total_s for cost in costs)
    assert all(cost.total_s >= 0 for cost in costs)
    assert decision.num_routes == len(costs)
    assert set(routes(decision)) == {cost.route for cost in costs}
    totals = [cost.total_s for cost in decision.others]
    assert totals == sorted(totals)
    again = CostBased().choose(ask, prefill[::-1], decode[::-1])
    assert again
    assert again.route == decision.route


@pytest.mark.parametrize("policy", [CostBased(), LeastLoaded(), RoundRobin()])
def test_of_many_routes_only_the_cheapest_are_kept_beside_the_choice(
    policy: CostBased | LeastLoaded | RoundRobin,
) -> None:
    prefill = [worker(f"p{n:02}", tokens=n) for n in range(20)]
    decode = [worker(f"d{n:02}", sequences=20 - n) for n in range(20)]
    decision = policy.choose(ASK, prefill, decode)
    assert decision
    assert decision.num_routes == 20 * 21
    assert len(routes(decision)) == len(set(routes(decision))) == 32
    all_costs = sorted(cost.total_s for cost in predict(ASK, prefill, decode))
    assert decision.others[0].total_s <= all_costs[1]
