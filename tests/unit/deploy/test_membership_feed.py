"""Feed of a router with the news of its supervisor."""

import asyncio
import queue

from structlog.testing import capture_logs

from deploy.membership_feed import MembershipFeed
from deploy.news import News, make_event
from pdserve.errors import PreconditionError
from router.workers.membership import Member, Membership
from tests.patience import WITHIN_S

OLD, NEW = Membership(1, (Member("a", "host:1"),)), Membership(2, (Member("a", "host:2"),))


async def test_news_reach_the_loop_and_the_log_also_after_the_supervisor_was_away() -> None:
    event = make_event("info", "worker_back", worker="a")
    answers: list[News | Exception] = [
        News(OLD, (), 7),
        PreconditionError("the supervisor is gone"),
        PreconditionError("the supervisor is gone"),
        News(NEW, (event,), 8),
    ]
    asked: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    followed: asyncio.Queue[Membership] = asyncio.Queue()

    def await_news(version: int, num_events: int, timeout_s: float) -> News:
        asked.put((version, num_events))
        answer = answers.pop(0) if answers else News(NEW, (), 8)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with capture_logs() as logs:
        feed = MembershipFeed(await_news, followed.put_nowait)
        feed.start()
        async with asyncio.timeout(WITHIN_S):
            assert [await followed.get(), await followed.get()] == [OLD, NEW]
        await feed.close()
    assert [asked.get() for _ in range(4)] == [(0, -1), (1, 7), (1, 7), (1, 7)]
    # one line although it was away twice, and the event once
    assert [line["event"] for line in logs] == ["supervisor_unknown", "worker_back"]
    assert followed.empty()
