import asyncio

from hypothesis import given
from hypothesis import strategies as st

from common.messages import SamplingParams
from router.access.tenant import (
    ANONYMOUS,
    RequestKey,
    Tenant,
    current_tenant,
    find,
    set_current_tenant,
)
from router.intake.job import Job

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
salts = st.text("ab/.", max_size=6)
ids = st.from_regex(r"[!-~]{1,9}", fullmatch=True)


def job(salt: str = "") -> Job:
    return Job("r", (1,), SamplingParams(0.0, 0, 1), (), cache_salt=salt)


@given(st.tuples(names, salts), st.tuples(names, salts))
def test_no_two_tenants_and_no_two_salts_of_one_share_kv(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    same = Tenant(one[0]).salt(one[1]) == Tenant(other[0]).salt(other[1])
    assert same == (one == other)


@given(st.tuples(names, ids), st.tuples(names, ids))
def test_no_two_requests_have_one_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = [RequestKey(Tenant(tenant), request_id) for tenant, request_id in (one, other)]
    assert (keys[0] == keys[1]) == (str(keys[0]) == str(keys[1])) == (one == other)


def test_an_admin_of_a_tenant_is_of_that_tenant() -> None:
    assert Tenant("acme", is_admin=True) == Tenant("acme")
    assert RequestKey(Tenant("acme", is_admin=True), "r") == RequestKey(Tenant("acme"), "r")


def test_without_tenants_nothing_is_named_differently() -> None:
    made = job("salt")
    assert (made.tenant, made.salt, str(made.key)) == (ANONYMOUS, "salt", "r")


async def test_a_job_is_its_callers_and_calls_do_not_mix() -> None:
    async def call(name: str) -> str:
        set_current_tenant(Tenant(name))
        await asyncio.sleep(0)
        made = await asyncio.create_task(asyncio.to_thread(job, "s"))
        return f"{made.tenant.name} {made.salt} {made.key}"

    answers = await asyncio.gather(call("acme"), call("zeta"))
    assert [*answers] == ["acme acme/s acme/r", "zeta zeta/s zeta/r"]
    assert current_tenant() == ANONYMOUS


def test_an_admin_s_tenant_and_id_are_not_taken_for_another_tenant_s_id() -> None:
    keys = dict.fromkeys([RequestKey(Tenant("acme"), "zeta/x"), RequestKey(Tenant("zeta"), "x")])
    admin = Tenant("ops", is_admin=True)
    assert str(find(keys, admin, "zeta/x")) == "zeta/x"
    assert str(find(keys, admin, "acme/zeta/x")) == "acme/zeta/x"
    assert str(find(keys, admin, "x")) == "zeta/x"
