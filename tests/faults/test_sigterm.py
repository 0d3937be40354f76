"""SIGTERM under load: what can end within the grace does, and no process is left."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.fleet import Fleet
from pdserve.client import AsyncClient
from tests.faults.deployments import FAILPOINTS, SETTINGS, serving_tiny
from tests.faults.texts import QUESTIONS, Answers, ask_all, check_answers
from tests.integration.support.processes import STOP_TIMEOUT_S
from tests.patience import WITHIN_S


@pytest.mark.faults
async def test_requests_end_within_the_grace(tiny_model: Path) -> None:
    grace = {"PDSERVE_DRAIN_TIMEOUT_S": str(WITHIN_S)}
    with serving_tiny(tiny_model, FAILPOINTS, SETTINGS | grace) as (served, _):
        async with AsyncClient(served.grpc) as client:
            fleet = Fleet(client, served.grpc, served.process.pid)
            undisturbed = await ask_all(fleet, QUESTIONS, "undisturbed")
            expected = {asking.question: asking.answer() for asking in undisturbed}
            answers = Answers(fleet, QUESTIONS, "ending")
            await answers.until_messages(100)
            processes = fleet.processes()
            served.process.send_signal(signal.SIGTERM)
            check_answers(await answers.all(), expected)
        assert await asyncio.to_thread(served.process.wait, STOP_TIMEOUT_S) == 0
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, STOP_TIMEOUT_S)
        assert not alive
