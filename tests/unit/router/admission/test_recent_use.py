from collections.abc import Callable

import pytest

from router.admission.recent_use import RecentUse


def recent_use(weight: Callable[[str], float] = lambda _: 1.0) -> RecentUse:
    return RecentUse(weight)


def test_a_tenant_alone_is_never_over_its_share() -> None:
    found = recent_use()
    assert not found.is_over("a", 0.0)
    found.add("a", 10_000, 0.0)
    assert not found.is_over("a", 0.0)


def test_who_had_more_than_half_is_over_and_who_had_half_is_not() -> None:
    found = recent_use()
    found.add("a", 300, 0.0)
    found.add("b", 100, 0.0)
    assert found.is_over("a", 0.0)
    assert not found.is_over("b", 0.0)
    found.add("b", 200, 0.0)
    assert not found.is_over("a", 0.0)
    assert not found.is_over("b", 0.0)


def test_shares_are_by_weight() -> None:
    found = recent_use(lambda tenant: 3.0 if tenant == "a" else 1.0)
    found.add("a", 290, 0.0)
    found.add("b", 110, 0.0)
    assert not found.is_over("a", 0.0)  # 3/4 of 400 are 300
    assert found.is_over("b", 0.0)


@pytest.mark.parametrize(("seconds", "is_over"), [(1.0, True), (60.0, False)])
def test_the_past_is_forgotten(seconds: float, is_over: bool) -> None:
    """100 tokens are less than one after 10 s x ln 100 = 46 s: then the other one is alone."""
    found = recent_use()
    found.add("b", 100, 0.0)
    found.add("a", 100_000, 0.0)
    assert found.is_over("a", seconds) is is_over


def test_old_tokens_count_less_than_new_ones() -> None:
    found = recent_use()
    found.add("a", 300, 0.0)
    found.add("b", 120, 10.0)
    assert found.is_over("b", 10.0)  # 300 / e are 110
