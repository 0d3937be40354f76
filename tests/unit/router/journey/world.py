"""Journeys over the played workers of routed.py."""

import asyncio
from pathlib import Path

from common.router_config import RouterConfig
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from router.journey.journey import Journeys
from router.journey.progress import Delta
from tests.unit.router.journey.routed import Routed, make_job, read, until
from tests.unit.router.tiny_tokenizer import write_folder

FIRST = "me/0/r"  # the first request's name on workers


class World:
    """Journeys, and requests that a test brings to a point of their life."""

    def __init__(
        self,
        model_dir: Path,
        config: RouterConfig | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.routed = Routed(config)
        self.journeys: Journeys = self.routed.journeys(write_folder(model_dir), tracing)

    def start(
        self, request_id: str = "r", timeout_s: float | None = None, num_choices: int = 1
    ) -> "asyncio.Task[list[Delta]]":
        job = make_job(request_id, num_choices=num_choices)
        return asyncio.create_task(read(self.journeys, job, timeout_s))

    async def start_sent(self, num_choices: int = 1) -> "asyncio.Task[list[Delta]]":
        task = self.start(num_choices=num_choices)
        await until(lambda: self.routed.decode.num_live == num_choices)
        return task

    async def start_queued(
        self, timeout_s: float | None = None
    ) -> tuple["asyncio.Task[list[Delta]]", "asyncio.Task[list[Delta]]"]:
        """Two requests; the worker wants no more than the first one's prompt."""
        first = await self.start_sent()
        second = self.start("waits", timeout_s)
        await until(lambda: self.routed.admission.accepted == 2)
        return first, second

    async def finish(self, task: "asyncio.Task[list[Delta]]", work_id: str = FIRST) -> None:
        self.routed.say(work_id, "ok", ends=True)
        assert "".join(delta.text for delta in await task) == "ok"
