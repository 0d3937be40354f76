from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from common.messages import Role
from pdserve.errors import InvalidRequestError
from router.scaling.plan import Member, ScalePlan, make_plan

P, D = Role.PREFILL, Role.DECODE


def members(num_prefill: int, num_decode: int) -> list[Member]:
    return [Member(f"prefill-{i}", P) for i in range(num_prefill)] + [
        Member(f"decode-{i}", D) for i in range(num_decode)
    ]


def test_a_role_that_has_too_many_gives_to_the_other() -> None:
    assert make_plan(members(1, 1), 0, 2) == ScalePlan(flips=("prefill-0",), flip_to=D)
    assert make_plan(members(1, 4), 3, 2) == ScalePlan(flips=("decode-0", "decode-1"), flip_to=P)


def test_what_flips_do_not_give_is_started_and_what_they_do_not_take_is_stopped() -> None:
    assert make_plan(members(2, 1), 1, 3) == ScalePlan((D,), ("prefill-0",), D)
    assert make_plan(members(3, 1), 0, 2) == ScalePlan(
        flips=("prefill-0",), flip_to=D, stops=("prefill-1", "prefill-2")
    )
    assert make_plan(members(1, 1), 2, 3).starts == (P, D, D)
    assert make_plan(members(2, 3), 1, 1).stops == ("prefill-0", "decode-0", "decode-1")


def test_the_one_with_least_to_do_goes_and_of_equal_ones_who_came_from_the_other_role() -> None:
    busy = [Member("decode-0", D, 3), Member("decode-1", D, 1), Member("decode-2", D, 2)]
    assert make_plan(busy, 1, 2).flips == ("decode-1",)
    leaving = [Member("decode-0", D), Member("decode-1", D, 5, is_draining=True)]
    assert make_plan(leaving, 0, 1).stops == ("decode-1",)
    mixed = [Member("decode-0", D), Member("prefill-0", D)]
    assert make_plan(mixed, 1, 1).flips == ("prefill-0",)


def test_an_unset_number_stays_and_a_dead_worker_is_swept_out_and_replaced() -> None:
    assert make_plan(members(1, 1), None, 2) == ScalePlan(starts=(D,))
    dead = [Member("prefill-0", P), Member("decode-0", D, is_gone=True)]
    assert make_plan(dead, 0, 1) == ScalePlan(flips=("prefill-0",), gone=("decode-0",))
    assert make_plan(dead, 1, 1).starts == (D,)


@pytest.mark.parametrize(
    ("prefill", "decode", "field"),
    [(1, 0, "decode"), (0, 257, "decode"), (1025, 1, "prefill"), (-1, 1, "prefill")],
)
def test_numbers_out_of_range_are_refused_by_name(prefill: int, decode: int, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make_plan(members(1, 1), prefill, decode)
    assert caught.value.field == field


workers = st.lists(
    st.builds(
        Member,
        st.uuids().map(str),
        st.sampled_from(Role),
        st.integers(0, 5),
        is_gone=st.booleans(),
    ),
    max_size=12,
)


def after(there: Sequence[Member], plan: ScalePlan) -> Counter[Role]:
    left = {m.name: m.role for m in there if m.name not in (*plan.stops, *plan.gone)}
    left |= dict.fromkeys(plan.flips, plan.flip_to)
    return Counter([*left.values(), *plan.starts])


@seed(5)
@given(workers, st.integers(0, 8), st.integers(1, 8))
def test_every_plan_ends_with_what_was_wanted_in_the_fewest_steps(
    there: list[Member], prefill: int, decode: int
) -> None:
    plan = make_plan(there, prefill, decode)
    assert after(there, plan) == Counter({P: prefill, D: decode})
    alive = Counter(m.role for m in there if not m.is_gone)
    assert not (plan.starts and plan.stops)
    # no worker that leaves is counted twice, and each had another role before
    leaving = [*plan.flips, *plan.stops, *plan.gone]
    assert len(set(leaving)) == len(leaving)
    roles = {m.name: m.role for m in there}
    assert all(roles[name] is not plan.flip_to for name in plan.flips)
    # a worker that can flip does not make room for a new process
    for role in Role:
        other = D if role is P else P
        wanted = {P: prefill, D: decode}
        missing, spare = wanted[role] - alive[role], alive[other] - wanted[other]
        assert plan.starts.count(role) == max(missing - max(spare, 0), 0)
    # one worker goes on decoding while others are drained
    staying = [m for m in there if m.name not in leaving and m.role is D]
    assert staying or not alive[D]
