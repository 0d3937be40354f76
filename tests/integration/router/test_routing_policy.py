"""Routing by the policy, and its explanation: over gRPC, with scripted and real workers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.messages import Role
from common.prefix_chain import PrefixChain
from common.profile import Correction, WorkerProfile
from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from pdserve.errors import NotFoundError, Reason, RequestCancelledError
from pdserve.v1 import inference_pb2
from router.workers.link import WorkerLink
from tests.integration.support.in_process_workers import Workers, load_now
from tests.integration.support.router_stack import HOST, Stack, collect, routing, serving
from tests.integration.support.scripted_worker import BLOCK_SIZE, ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

PROMPT = "one prefix that several prompts have in common, of some blocks. "  # 64 tokens
# prompts are expensive, so the worker that has one cached wins; KV transfers are free
DEAR = WorkerProfile(row_seconds=(0.01, 1000.0), correction=Correction(handoff_s=0.0))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, "llama", vocab_size=VOCAB_SIZE)
    return write_folder(folder)


def scripted(name: str, role: Role = Role.DECODE) -> ScriptedWorker:
    worker = ScriptedWorker(name, role, script=echo)
    worker.info = replace(worker.info, profile=DEAR)
    return worker


def learn(worker: ScriptedWorker, text: str, salt: str = "") -> None:
    """Put this text into the worker's blocks, and publish the change."""
    chain = PrefixChain(worker.info.model_fingerprint, salt, BLOCK_SIZE)
    tokens = list(text.encode())
    chain.grow(tokens, len(tokens) // BLOCK_SIZE)
    for key in chain.keys:
        worker.prefixes.add([key])
    worker.publish()


def link_of(stack: Stack, name: str) -> WorkerLink:
    return stack.router._pool.link(name)


async def until_known(stack: Stack, name: str, num_digests: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while len(link_of(stack, name).prefixes) != num_digests:
            await asyncio.sleep(0.005)


async def ended(stack: Stack, prompt: str, max_tokens: int = 90) -> inference_pb2.Finished:
    return (await collect(stack.client, prompt, max_tokens=max_tokens))[-1].finished


async def test_a_prompt_goes_to_the_decode_worker_that_holds_its_prefix(model_dir: Path) -> None:
    workers = [scripted(f"decode-{number}") for number in range(3)]
    async with serving(model_dir, *workers) as stack:
        assert (await ended(stack, PROMPT + "first")).decode_worker == "decode-0"
        learn(workers[2], PROMPT)
        await until_known(stack, "decode-2", 4)
        assert (await ended(stack, PROMPT + "second")).decode_worker == "decode-2"
        assert (await ended(stack, "another " + PROMPT)).decode_worker == "decode-0"
        for key in list(workers[2].prefixes._held):
            workers[2].prefixes.remove(key)
        workers[2].publish()
        await until_known(stack, "decode-2", 0)
        assert (await ended(stack, PROMPT + "third")).decode_worker == "decode-0"


async def test_a_prefill_worker_that_holds_the_prefix_is_chosen_too(model_dir: Path) -> None:
    sources = [scripted(f"prefill-{number}", Role.PREFILL) for number in range(2)]
    async with serving(model_dir, scripted("decode-0"), *sources) as stack:
        learn(sources[1], PROMPT)
        await until_known(stack, "prefill-1", 4)
        assert (await ended(stack, PROMPT + "x")).prefill_worker == "prefill-1"


async def test_another_tenants_prefix_is_not_counted_on(model_dir: Path) -> None:
    workers = [scripted(f"decode-{number}") for number in range(2)]
    async with serving(model_dir, *workers) as stack:
        learn(workers[1], PROMPT, salt="tenant")
        await until_known(stack, "decode-1", 4)
        for salt, expected in (("", "decode-0"), ("tenant", "decode-1")):
            parts = stack.client.stream(PROMPT + "x", cache_salt=salt)
            assert [p async for p in parts][-1].finished.decode_worker == expected


async def test_a_router_that_missed_a_change_is_given_everything_again(model_dir: Path) -> None:
    worker = scripted("decode-0")
    async with serving(model_dir, worker) as stack:
        learn(worker, PROMPT)
        await until_known(stack, "decode-0", 4)
        link_of(stack, "decode-0").prefixes._reached = 99  # as if the router had missed changes
        learn(worker, "and something else, too")
        await until_known(stack, "decode-0", 5)


async def test_a_router_that_comes_late_learns_what_is_there(model_dir: Path) -> None:
    worker = scripted("decode-0")
    learn(worker, PROMPT)
    async with serving(model_dir, worker) as stack:
        await until_known(stack, "decode-0", 4)


async def test_a_decision_is_explained_while_the_request_runs_and_after_its_end(
    model_dir: Path,
) -> None:
    decode, source = ScriptedWorker(), scripted("prefill-0", Role.PREFILL)
    decode.info = replace(decode.info, profile=DEAR)
    async with serving(model_dir, decode, source) as stack:
        learn(source, PROMPT)
        await until_known(stack, "prefill-0", 4)
        running = asyncio.create_task(
            collect(stack.client, PROMPT + "x", request_id="why", max_tokens=7)
        )
        request = await asyncio.to_thread(decode.wait_for_request)
        answer = await stack.client.explain("why")
        assert (answer.request_id, answer.policy, answer.prompt_tokens) == ("why", "cost", 65)
        assert (answer.expected_output_tokens, answer.num_routes) == (7, 2)
        taken, other = answer.routes
        assert (taken.prefill_worker, taken.decode_worker) == ("prefill-0", "decode-0")
        assert (other.prefill_worker, other.decode_worker) == ("", "decode-0")
        assert (taken.cached_tokens, taken.shipped_tokens) == (64, 65)
        assert 0 < taken.total_us < other.total_us
        for route in answer.routes:
            waiting_us = route.queue_us + route.prefill_us + route.transfer_us
            sum_us = waiting_us + route.interference_us + route.decode_us
            assert route.total_us == pytest.approx(sum_us, abs=3)
        assert not answer.finished
        decode.say(request, "done", ends=True)
        parts = await running
        (finished,) = (await stack.client.explain("why")).finished
        assert finished == parts[-1].finished


async def test_choices_are_explained_together(model_dir: Path) -> None:
    async with serving(model_dir, scripted("decode-0")) as stack:
        await collect(stack.client, "ab", request_id="two", n=2, seed=5)
        answer = await stack.client.explain("two")
    assert [finished.seed for finished in answer.finished] == [5, 6]


async def test_what_did_not_end_well_keeps_its_decision_and_has_no_timings(
    model_dir: Path,
) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        running = asyncio.create_task(collect(stack.client, "x", request_id="gone"))
        await asyncio.to_thread(worker.wait_for_request)
        await stack.client.cancel("gone")
        with pytest.raises(RequestCancelledError):
            await running
        answer = await stack.client.explain("gone")
    assert (len(answer.routes), len(answer.finished)) == (1, 0)


async def test_unknown_requests_have_no_explanation(model_dir: Path) -> None:
    async with serving(model_dir, scripted("decode-0")) as stack:
        for request_id in ("never", ""):
            with pytest.raises(NotFoundError) as caught:
                await stack.client.explain(request_id)
            assert caught.value.reason is Reason.REQUEST_NOT_FOUND
            assert caught.value.field == "request_id"


async def test_only_the_latest_decisions_are_remembered(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(model_dir, scripted("decode-0")) as stack:
        decisions = stack.router._decisions
        monkeypatch.setattr(decisions, "_max_remembered", 3)
        for name in ("a", "b", "c", "a", "d"):
            await collect(stack.client, "x", request_id=name)
        for name in ("c", "a", "d"):
            assert (await stack.client.explain(name)).request_id == name
        with pytest.raises(NotFoundError):
            await stack.client.explain("b")


@pytest.mark.parametrize("policy", ["least_loaded", "round_robin"])
async def test_the_other_policies_use_the_prefill_pool_always(model_dir: Path, policy: str) -> None:
    workers = scripted("decode-0"), scripted("prefill-0", Role.PREFILL)
    config = RouterConfig.model_validate({"policy": policy})
    async with serving(model_dir, *workers, config=config) as stack:
        for number in range(3):
            name = f"r{number}"
            parts = await collect(stack.client, "a short prompt", request_id=name)
            assert parts[-1].finished.prefill_worker == "prefill-0"
            answer = await stack.client.explain(name)
            assert answer.policy == policy
            assert answer.routes[0].prefill_worker == "prefill-0"


async def test_prompts_on_their_way_count_before_the_worker_reports_them(model_dir: Path) -> None:
    """No worker reports a load: three prompts spread over three workers by sent prompts alone."""
    workers = [ScriptedWorker(f"decode-{number}") for number in range(3)]
    async with serving(model_dir, *workers) as stack:
        tasks = []
        for worker in workers:
            tasks.append(asyncio.create_task(collect(stack.client, "the same prompt")))
            await asyncio.to_thread(worker.wait_for_request)
        assert [len(worker.requests) for worker in workers] == [1, 1, 1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def real(model_dir: Path) -> AsyncIterator[tuple[Stack, Workers]]:
    with Workers(model_dir) as workers:
        hosts = [WorkerHost(worker, HOST) for worker in (workers.prefill, workers.decode)]
        try:
            async with routing(model_dir, [host.start() for host in hosts]) as stack:
                yield stack, workers
        finally:
            for host in hosts:
                host.stop(WITHIN_S)


async def test_real_workers_say_what_they_hold_and_what_they_cost(
    real: tuple[Stack, Workers],
) -> None:
    stack, workers = real
    first_done = await ended(stack, PROMPT + "first", max_tokens=4)
    holder = first_done.prefill_worker or first_done.decode_worker
    async with asyncio.timeout(WITHIN_S):
        while len(link_of(stack, holder).prefixes) < 4:
            await asyncio.sleep(0.005)
    parts = await collect(stack.client, PROMPT + "second", request_id="second", max_tokens=4)
    answer = await stack.client.explain("second")
    by_name = {route.prefill_worker or route.decode_worker: route for route in answer.routes}
    assert by_name[holder].cached_tokens == 64
    assert parts[-1].finished.usage.cached_tokens == answer.routes[0].cached_tokens
    for worker in (workers.prefill, workers.decode):
        info = link_of(stack, worker.info.name).info
        assert info is not None
        assert info.profile == worker.info.profile != WorkerProfile()
    assert load_now(workers.decode).correction != Correction()
