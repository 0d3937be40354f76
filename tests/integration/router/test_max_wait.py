"""router.max_wait_s, over workers that answer only when told to."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import SecurityConfig
from common.messages import Role
from common.profile import WorkerProfile
from common.router_config import RouterConfig
from pdserve.client import AsyncClient
from pdserve.errors import OverloadedError, Reason
from tests.integration.support.guarded_router import ACME, ZETA, guarded, issue, start
from tests.integration.support.router_stack import collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

# a tenth of a second for each prompt token
PROFILE = WorkerProfile(
    (1, 10), (0.1, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, max_batch_tokens=10, max_num_seqs=8
)
MANY = 96


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def slow_worker(name: str = "decode-0", role: Role = Role.DECODE) -> ScriptedWorker:
    worker = ScriptedWorker(name, role)
    worker.info = replace(worker.info, profile=PROFILE)
    return worker


@pytest.mark.parametrize(
    ("sources", "prompt"), [([], "y"), ([("prefill-0", Role.PREFILL)], "y" * 15)]
)
async def test_who_would_wait_too_long_is_refused(
    model_dir: Path, sources: list[tuple[str, Role]], prompt: str
) -> None:
    """Two requests take 3 s; the third would wait for them, on prefill because it is as long."""
    worker, config = slow_worker(), RouterConfig(max_wait_s=1.0, policy="least_loaded")
    workers = [worker, *(slow_worker(*source) for source in sources)]
    async with serving(model_dir, *workers, config=config) as stack:
        first = asyncio.create_task(collect(stack.client, "x" * 15))
        await asyncio.to_thread(worker.wait_for_request)
        # one request ahead is no queue
        second = asyncio.create_task(collect(stack.client, "x" * 15))
        request = await asyncio.to_thread(worker.wait_for_request, 2)
        assert (request.prefill_worker is None) == (not sources)
        with pytest.raises(OverloadedError, match=r"more than 1\.00 s") as caught:
            await collect(stack.client, prompt)
        assert caught.value.reason is Reason.QUEUE_FULL
        assert caught.value.retry_after_s > 1.0
        for request in worker.requests:
            await asyncio.to_thread(worker.say, request, "z", ends=True)
        await asyncio.gather(first, second)
        assert (await stack.until_idle()).rejected == 1


async def test_who_has_had_more_than_its_share_leaves_half_of_the_wait_to_others(
    model_dir: Path, tmp_path: Path
) -> None:
    """ACME has 4 of 6 tokens: its wait is more than 0.5 s beside two others, and less than 1."""
    tokens = issue(tmp_path / "access", ACME, ZETA)
    security = SecurityConfig(access_file=tmp_path / "access")
    worker, config = slow_worker(), RouterConfig(max_wait_s=1.0)
    async with guarded(model_dir, worker, security, config=config) as router:
        address = await start(router)
        async with (
            AsyncClient(address, token=tokens["acme"], retries=False) as acme,
            AsyncClient(address, token=tokens["zeta"], retries=False) as zeta,
        ):
            asked = [asyncio.create_task(collect(acme, "x" * 4))]
            await asyncio.to_thread(worker.wait_for_request)
            asked.append(asyncio.create_task(collect(zeta, "yy")))
            await asyncio.to_thread(worker.wait_for_request, 2)
            with pytest.raises(OverloadedError, match=r"more than 0\.50 s"):
                await asyncio.wait_for(collect(acme, "x"), WITHIN_S)
            asked.append(asyncio.create_task(collect(zeta, "yy")))
            await asyncio.to_thread(worker.wait_for_request, 3)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)


async def test_who_sets_no_limit_and_no_deadline_has_nobody_refused(model_dir: Path) -> None:
    """Each takes 1.5 s by the profile, the last over two minutes; all come at once."""
    worker = slow_worker()
    async with serving(model_dir, worker) as stack:
        tasks = [asyncio.create_task(collect(stack.client, "x" * 15)) for _ in range(MANY)]
        await stack.until(lambda status: status.router.requests_in_flight == MANY)
        for number in range(1, MANY + 1):
            request = await asyncio.to_thread(worker.wait_for_request, number)
            await asyncio.to_thread(worker.say, request, "z", ends=True)
        answers = await asyncio.gather(*tasks)
        assert [text_of(answer) for answer in answers] == ["z"] * MANY
        totals = await stack.until_idle()
        assert (totals.accepted, totals.completed, totals.rejected) == (MANY, MANY, 0)
