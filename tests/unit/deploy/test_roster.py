"""Roster of a deployment: processes of the wanted workers, and the news that routers wait for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from common.low_priority import StarvedError
from deploy.launched import Launched
from deploy.news import make_event
from deploy.placement import Share
from deploy.roster import Roster
from deploy.starting import NotReadyInTimeError, Ready
from pdserve.errors import PreconditionError, SetupError
from router.workers.membership import Member
from tests.patience import WITHIN_S
from tests.unit.deploy.test_launched import launched

HERE = Path("worker.log")


def process(number: int = 1) -> Launched:
    """Return a process of decode-0; its handle is only compared."""
    return replace(launched(HERE), handle=f"process {number}", share=Share(1, (number,)))


def serving() -> tuple[Roster, Launched]:
    roster, first = Roster(), process()
    roster.add(Ready(first, "host:1"))
    return roster, first


def test_a_process_that_dies_is_followed_by_the_next_at_its_own_address() -> None:
    roster, first = serving()
    assert roster.died(first)
    with pytest.raises(PreconditionError, match="decode-0 is being restarted"):
        roster.serving("decode-0")
    assert roster.take_due(1e9)[0] == ["decode-0"]
    second = process(2)
    assert roster.begins(second)
    assert not roster.died(first)  # its end is known
    assert roster.serves(Ready(second, "host:2"))
    assert roster.serving("decode-0") is second
    assert (roster.at("decode-0", "host:1"), roster.at("decode-0", "host:2")) == (None, second)


def test_what_was_removed_meanwhile_is_not_taken_on() -> None:
    roster, first = serving()
    roster.died(first)
    second = process(2)
    roster.begins(second)
    assert roster.remove("decode-0") == (second, False)
    assert not roster.serves(Ready(second, "host:2"))
    assert not roster.begins(process(3))
    assert not roster.died(second)
    assert (roster.processes(), roster.find("decode-0")) == ([], None)
    with pytest.raises(PreconditionError, match="no worker of this deployment"):
        roster.serving("decode-0")


def test_a_start_that_was_given_up_retires_nobody_and_three_that_failed_do() -> None:
    roster, first = serving()
    roster.died(first)
    for error in (StarvedError("no core"), NotReadyInTimeError("no room")) * 3:
        assert roster.failed_start("decode-0", error) is not None
        assert roster.is_late("decode-0")  # the next start is not gentle
    results = [roster.failed_start("decode-0", SetupError("no memory")) for _ in range(3)]
    assert results == [30.0, 30.0, None]
    news = roster.await_news(-1, -1, 0.0)
    assert news.membership.members == (Member("decode-0", retired="no memory"),)
    [saved] = roster.saved()
    assert (saved.name, saved.role, saved.retired) == ("decode-0", "decode", "no memory")
    assert saved.share == first.share


def test_news_come_at_once_and_each_event_once() -> None:
    roster, first = serving()
    before = roster.await_news(-1, -1, 0.0)
    assert before.membership.members == (Member("decode-0", "host:1"),)
    assert before.events == ()
    seen = before.membership.version, before.num_events
    assert roster.await_news(*seen, 0.0) == before
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(roster.await_news, *seen, WITHIN_S)
        roster.died(first)
        news = waiting.result(WITHIN_S)
    assert news.membership.members == (Member("decode-0"),)
    died = make_event("error", "worker_died", worker="decode-0")
    roster.tell(died)
    told = roster.await_news(news.membership.version, news.num_events, 0.0)
    assert told.events == (died,)
    assert roster.await_news(told.membership.version, told.num_events, 0.0).events == ()


def test_a_router_takes_the_news_of_the_next_supervisor_for_newer() -> None:
    first, _ = serving()
    before = first.await_news(-1, -1, 0.0)
    second = Roster(first_number=2**32)
    second.add(Ready(process(), "host:1"))
    second.tell(make_event("warning", "supervisor_back"))
    news = second.await_news(before.membership.version, before.num_events, 0.0)
    assert news.membership.version > before.membership.version
    assert [event.name for event in news.events] == ["supervisor_back"]


@pytest.mark.parametrize("retired", ["", "no memory"])
def test_a_worker_that_died_with_its_supervisor_is_started_again_unless_it_was_retired(
    retired: str,
) -> None:
    roster = Roster()
    roster.add_dead(process(), retired)
    assert roster.take_due(1e9)[0] == ([] if retired else ["decode-0"])
    [member] = roster.await_news(-1, 0, 0.0).membership.members
    assert (member.name, member.address, member.retired) == ("decode-0", "", retired)
    assert [worker.retired for worker in roster.saved()] == [retired]
