"""Router and worker in two network namespaces: `unshare -n python -m tests.faults.partition ...`.

Arguments: a model's folder; "down" (the link) or "drop" (what the worker sends); "briefly", or until the
router has given the worker up, "long".
"""

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.questions import Sizes, draw_questions
from common.router_config import RouterConfig
from common.telemetry.logs import configure_logs
from pdserve.v1 import admin_pb2
from tests.faults.far_worker import FAR_LINK, NEAR, ip
from tests.faults.texts import Answers, ask_all, check_answers, check_nothing_is_left
from tests.integration.support.router_stack import routing
from tests.patience import WITHIN_S

UNREACHABLE = admin_pb2.WORKER_STATE_UNREACHABLE
NEAR_LINK = "pdnear"
_BRIEFLY_S = 2.0  # shorter than the silence after which a router gives a worker up
QUESTIONS = draw_questions(random.Random(9), 2, Sizes(words=(4, 12), tokens=(300, 400)))


@dataclass(frozen=True, slots=True)
class Far:
    """The worker's process."""

    process: asyncio.subprocess.Process
    address: str = ""

    async def tell(self, command: str) -> str:
        """Send a line; return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        return await self.answer()

    async def answer(self) -> str:
        """Return the next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            return (await self.process.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def far_worker(folder: str) -> AsyncIterator[Far]:
    """Yield a worker behind a link of its own."""
    pipe = asyncio.subprocess.PIPE
    command = ("unshare", "-n", sys.executable, "-m", "tests.faults.far_worker", folder)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        far = Far(process)
        ip("link", "set", "lo", "up")
        ip("link", "add", NEAR_LINK, "type", "veth", "peer", "name", FAR_LINK)
        ip("link", "set", FAR_LINK, "netns", await far.answer())
        ip("addr", "add", f"{NEAR}/24", "dev", NEAR_LINK)
        ip("link", "set", NEAR_LINK, "up")
        yield Far(process, await far.tell("serve"))
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), WITHIN_S)
        if process.returncode is None:
            process.kill()


@contextlib.asynccontextmanager
async def parted(far: Far, way: str) -> AsyncIterator[None]:
    """Part the two while the block runs."""
    if way == "down":
        ip("link", "set", NEAR_LINK, "down")
    else:
        await far.tell("drop")
    yield
    if way == "down":
        ip("link", "set", NEAR_LINK, "up")
    else:
        await far.tell("heal")


async def main(folder: str, way: str, length: str) -> None:
    """Part them under load; each answer must be that of an undisturbed run."""
    configure_logs(process="router")
    config = RouterConfig(max_outage_s=WITHIN_S)
    async with far_worker(folder) as far, routing(Path(folder), [far.address], config) as stack:
        fleet = Fleet(stack.client, stack.address, 0)
        undisturbed = await ask_all(fleet, QUESTIONS, "undisturbed")
        expected = {asking.question: asking.answer() for asking in undisturbed}
        answers = Answers(fleet, QUESTIONS, "parted")
        await answers.until_messages(200)
        async with parted(far, way):
            if length == "long":
                await stack.until(lambda status: status.workers[0].state == UNREACHABLE)
            else:
                await asyncio.sleep(_BRIEFLY_S)  # the fault's own length
        check_answers(await answers.all(), expected)
        await check_nothing_is_left(fleet)
    print(f"all {len(QUESTIONS)} as undisturbed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3]))
