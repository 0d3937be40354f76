"""Wanted workers: when a worker that died is started again, by hand."""

from deploy.wanted import WantedWorkers
from router.workers.membership import Member


def serving(*names: str, at_s: float = 0.0) -> WantedWorkers:
    wanted = WantedWorkers()
    for name in names:
        wanted.serves(name, f"{name}:1", at_s)
    return wanted


def test_deaths_in_a_row_are_answered_later_and_later_until_one_serves_well() -> None:
    wanted, told = serving("a"), []
    # a death, the restart that follows it, and the time at which the new process serves
    table = [
        (100.0, 100.0, 105.0),  # served for 100 s: at once
        (110.0, 111.0, 116.0),
        (120.0, 122.0, 127.0),
        (130.0, 134.0, 139.0),
        (140.0, 148.0, 153.0),
        (160.0, 176.0, 181.0),
        (190.0, 220.0, 225.0),
        (284.9, 314.9, 320.0),  # served for 59.9 s, and 30 s is the longest
        (380.0, 380.0, 385.0),  # served for 60 s: the count begins anew
        (390.0, 391.0, 396.0),
    ]
    for died_s, restart_s, serves_s in table:
        told.append((died_s, died_s + wanted.died("a", died_s), serves_s))
        assert wanted.next_due_s() == restart_s
        if died_s < restart_s:
            assert wanted.take_due(restart_s - 0.1) == []
        assert wanted.take_due(restart_s) == ["a"]
        assert wanted.take_due(restart_s) == []
        assert wanted.next_due_s() is None
        wanted.serves("a", f"a:{serves_s}", serves_s)
    assert told == table


def test_the_third_failed_start_in_a_row_retires_a_worker_and_says_why() -> None:
    wanted = serving("a", "b")
    assert wanted.died("a", 100.0) == 0.0
    assert wanted.failed_start("a", 103.0, "no memory") == 1.0
    assert wanted.failed_start("a", 107.0, "no memory") == 2.0
    assert wanted.membership().find("a") == Member("a")
    assert wanted.failed_start("a", 112.0, "no disk") is None
    assert wanted.membership().find("a") == Member("a", retired="no disk")
    assert wanted.membership().find("b") == Member("b", "b:1")
    assert wanted.take_due(1e9) == []


def test_a_start_that_succeeds_forgets_the_failed_ones_before_it() -> None:
    wanted = serving("a")
    wanted.died("a", 100.0)
    for _ in range(2):
        wanted.failed_start("a", 101.0, "no memory")
    wanted.serves("a", "a:2", 110.0)
    assert wanted.died("a", 111.0) == 4.0  # the fourth death, two starts included
    for _ in range(2):
        assert wanted.failed_start("a", 120.0, "no memory") is not None
    assert wanted.failed_start("a", 130.0, "no memory") is None


def test_starts_that_are_given_up_for_want_of_room_retire_nobody() -> None:
    wanted = serving("a")
    wanted.died("a", 100.0)
    delays_s = [wanted.was_late("a", 200.0) for _ in range(8)]
    assert delays_s == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert wanted.membership().find("a") == Member("a")


def test_a_start_that_was_given_up_makes_the_next_ones_hurry_until_the_worker_serves() -> None:
    wanted = serving("a")
    wanted.died("a", 100.0)
    assert not wanted.is_late("a")
    wanted.was_late("a", 200.0)
    wanted.failed_start("a", 201.0, "no memory")
    assert wanted.is_late("a")
    wanted.serves("a", "a:2", 300.0)
    assert not wanted.is_late("a")
    assert not wanted.is_late("b")


def test_the_version_grows_with_each_change_that_a_router_must_know() -> None:
    wanted = serving("a", "b")
    versions = [wanted.version]
    wanted.died("a", 1.0)
    versions.append(wanted.version)
    assert wanted.membership().members == (Member("a"), Member("b", "b:1"))
    wanted.serves("a", "a:2", 2.0)
    versions.append(wanted.version)
    wanted.remove("b")
    versions.append(wanted.version)
    assert wanted.membership().members == (Member("a", "a:2"),)
    assert versions == sorted(set(versions))
    assert ("b" in wanted, wanted.address("b"), wanted.take_due(1e9)) == (False, "", [])
