"""Streams to a client: every token once, in order, as whole characters."""

import asyncio
import time
from pathlib import Path

import pytest

from common.messages import (
    FinishReason,
    Role,
    SamplingParams,
    SequenceOutput,
    WorkFailure,
    WorkRequest,
)
from common.timings import PrefillChunkTiming, WorkTimings
from pdserve.errors import (
    InternalError,
    InvalidRequestError,
    Reason,
    RequestCancelledError,
    RequestError,
    RequestTimeoutError,
)
from pdserve.v1 import inference_pb2
from tests.integration.support.router_stack import ALWAYS_PREFILL, collect, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import IM_END, write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


async def test_tokens_stream_as_whole_characters_with_a_summary_at_the_end(
    model_dir: Path,
) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        parts = await collect(stack.client, "hé你🚀!", request_id="me", seed=7)
    assert [part.text for part in parts] == ["h", "", "é", "", "", "你", "", "", "", "🚀", "!"]
    assert [part.index for part in parts] == list(range(11))
    assert bytes(t for part in parts for t in part.token_ids).decode() == "hé你🚀!"
    assert {part.request_id for part in parts} == {"me"}
    assert [part.HasField("finished") for part in parts] == [False] * 10 + [True]
    done = parts[-1].finished
    assert (done.reason, done.seed) == (inference_pb2.FINISH_REASON_STOP, 7)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (11, 11)
    assert (done.prefill_worker, done.decode_worker) == ("", "decode-0")
    assert 0 < done.timings.first_token_us <= done.timings.total_us


async def test_the_worker_gets_the_job_as_it_was_validated(model_dir: Path) -> None:
    decode, prefill = ScriptedWorker(script=echo), ScriptedWorker("prefill-0", Role.PREFILL)
    async with serving(model_dir, decode, prefill, config=ALWAYS_PREFILL) as stack:
        parts = await collect(
            stack.client, "ab", temperature=0.5, seed=2**64 - 1, stop_token_ids=[9], ignore_eos=True
        )
    request = decode.requests[0]
    assert request.sampling == SamplingParams(0.5, 2**64 - 1, 254, (9,), True)
    assert (request.prompt_token_ids, request.prefill_worker) == ((97, 98), "prefill-0")
    assert parts[-1].finished.prefill_worker == "prefill-0"
    assert prefill.requests == []


async def test_repeated_tokens_reach_the_client_once(model_dir: Path) -> None:
    def stutter(worker: ScriptedWorker, request: WorkRequest) -> None:
        for text, index in (("ab", 0), ("ab", 0), ("bc", 1), ("a", 0), ("cd", 2)):
            worker.say(request, text, index)
        worker.say(request, "bcde", 1, ends=True)

    async with serving(model_dir, ScriptedWorker(script=stutter)) as stack:
        parts = await collect(stack.client, "x")
    assert text_of(parts) == "abcde"
    assert [t for part in parts for t in part.token_ids] == list(b"abcde")
    assert parts[-1].finished.usage.completion_tokens == 5


async def test_a_missing_token_is_a_fault_and_stops_the_worker(model_dir: Path) -> None:
    def skip(worker: ScriptedWorker, request: WorkRequest) -> None:
        worker.say(request, "a")
        worker.say(request, "c", 2)

    worker = ScriptedWorker(script=skip)
    async with serving(model_dir, worker) as stack:
        with pytest.raises(InternalError, match="token 1 is missing"):
            await collect(stack.client, "x")
        await asyncio.to_thread(worker.wait, lambda worker: len(worker.cancelled) == 1)
        assert (await stack.until_idle()).failed == 1


async def test_text_ends_before_a_stop_text_that_lies_across_tokens(model_dir: Path) -> None:
    def talk(worker: ScriptedWorker, request: WorkRequest) -> None:
        worker.say(request, "one TH")
        worker.say(request, "E END", 6)  # for the worker, the request goes on for ever

    worker = ScriptedWorker(script=talk)
    async with serving(model_dir, worker) as stack:
        parts = await collect(stack.client, "x", stop=["THE"])
        await asyncio.to_thread(worker.wait, lambda worker: not worker.live)
        assert (await stack.until_idle()).completed == 1
    assert text_of(parts) == "one "
    assert parts[-1].finished.reason == inference_pb2.FINISH_REASON_STOP
    assert worker.cancelled == [worker.requests[0].request_id]


async def test_a_stop_token_counts_and_is_not_shown(model_dir: Path) -> None:
    def talk(worker: ScriptedWorker, request: WorkRequest) -> None:
        worker.say(request, "ok.", ends=True)

    async with serving(model_dir, ScriptedWorker(script=talk)) as stack:
        hidden = await collect(stack.client, "x", stop_token_ids=[ord(".")])
        shown = await collect(stack.client, "x", stop_token_ids=[IM_END])
    assert (text_of(hidden), hidden[-1].finished.usage.completion_tokens) == ("ok", 3)
    assert text_of(shown) == "ok."


async def test_half_a_character_at_the_length_limit_comes_out_broken(model_dir: Path) -> None:
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        parts = await collect(stack.client, "a你", max_tokens=2)
    assert text_of(parts) == "a\ufffd"
    assert parts[-1].finished.reason == inference_pb2.FINISH_REASON_LENGTH


async def test_the_worker_s_times_are_shifted_to_the_arrival_here(model_dir: Path) -> None:
    chunks = (PrefillChunkTiming(0.5, 0.25, 100), PrefillChunkTiming(1.0, 0.125, 28))

    def finish(worker: ScriptedWorker, request: WorkRequest) -> None:
        work = WorkTimings(
            0.5, chunks, 0.0625, kv_bytes=1000, num_preemptions=2, num_cached_tokens=7
        )
        done = SequenceOutput(request.request_id, 0, (65,), FinishReason.LENGTH, timings=work)
        worker.publish(done)

    async with serving(model_dir, ScriptedWorker(script=finish)) as stack:
        start_s = time.monotonic()
        done = (await collect(stack.client, "x"))[-1].finished
        passed_us = 1e6 * (time.monotonic() - start_s)
    times = done.timings
    shift_us = times.queue_us - 500_000
    assert 0 <= shift_us < passed_us
    assert [c.start_us - shift_us for c in times.prefill_chunks] == [500_000, 1_000_000]
    assert [(c.duration_us, c.num_tokens) for c in times.prefill_chunks] == [
        (250_000, 100),
        (125_000, 28),
    ]
    assert (times.handoff_us, times.kv_bytes, times.num_preemptions) == (62_500, 1000, 2)
    assert (times.num_cached_tokens, done.usage.cached_tokens) == (7, 7)


async def test_a_salt_reaches_the_worker(model_dir: Path) -> None:
    worker = ScriptedWorker(script=echo)
    async with serving(model_dir, worker) as stack:
        async for _ in stack.client.stream("x", cache_salt="tenant-7"):
            pass
    assert [request.cache_salt for request in worker.requests] == ["tenant-7"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.NAN_LOGITS, InternalError),
        (Reason.INTERNAL, InternalError),
        (Reason.DEADLINE_EXCEEDED, RequestTimeoutError),
        (Reason.KV_CAPACITY_EXCEEDED, InvalidRequestError),
    ],
)
async def test_a_worker_s_failure_keeps_its_reason(
    model_dir: Path, reason: Reason, kind: type[RequestError]
) -> None:
    def fail(worker: ScriptedWorker, request: WorkRequest) -> None:
        worker.say(request, "so far")
        failure = WorkFailure(reason, "the worker's words")
        worker.publish(SequenceOutput(request.request_id, 6, failure=failure))

    async with serving(model_dir, ScriptedWorker(script=fail)) as stack:
        with pytest.raises(kind, match="the worker's words") as caught:
            await collect(stack.client, "x")
    assert caught.value.reason is reason


async def test_a_hundred_at_once_each_get_their_own_tokens(model_dir: Path) -> None:
    prompts = [f"prompt number {number} is its own" for number in range(100)]
    async with serving(model_dir, ScriptedWorker(script=echo)) as stack:
        answers = await asyncio.gather(*(collect(stack.client, prompt) for prompt in prompts))
        totals = await stack.until_idle()
    assert [text_of(answer) for answer in answers] == prompts
    assert (totals.accepted, totals.completed) == (100, 100)


async def test_choices_are_answered_side_by_side_and_share_their_prompt(model_dir: Path) -> None:
    def say(worker: ScriptedWorker, request: WorkRequest) -> None:
        worker.say(request, f"seed {request.sampling.seed}", ends=True)

    workers = [ScriptedWorker(script=say), ScriptedWorker("prefill-0", Role.PREFILL)]
    async with serving(model_dir, *workers, config=ALWAYS_PREFILL) as stack:
        parts = await collect(stack.client, "x", n=3, seed=2**64 - 2, prompt_logprobs=1)
        totals = await stack.until_idle()
    texts = {choice: text_of([p for p in parts if p.choice == choice]) for choice in range(3)}
    assert texts == {0: f"seed {2**64 - 2}", 1: f"seed {2**64 - 1}", 2: "seed 0"}
    ends = {part.choice: part.finished for part in parts if part.HasField("finished")}
    assert {choice: end.seed for choice, end in ends.items()} == {0: 2**64 - 2, 1: 2**64 - 1, 2: 0}
    requests = workers[0].requests
    assert len({request.request_id for request in requests}) == 3
    (group,) = {request.group for request in requests}
    assert group
    assert {request.prefill_worker for request in requests} == {"prefill-0"}
    assert [request.sampling.prompt_logprobs for request in requests].count(1) == 1
    assert (totals.accepted, totals.completed) == (1, 1)


async def test_one_choice_has_no_group(model_dir: Path) -> None:
    worker = ScriptedWorker(script=echo)
    async with serving(model_dir, worker) as stack:
        await collect(stack.client, "x", n=1)
    assert [request.group for request in worker.requests] == [""]


async def test_when_one_choice_fails_the_others_are_cancelled(model_dir: Path) -> None:
    def fail_the_second(worker: ScriptedWorker, request: WorkRequest) -> None:
        if request.sampling.seed == 1:
            failure = WorkFailure(Reason.NAN_LOGITS, "broken")
            worker.publish(SequenceOutput(request.request_id, 0, failure=failure))

    worker = ScriptedWorker(script=fail_the_second)
    async with serving(model_dir, worker) as stack:
        with pytest.raises(InternalError):
            await collect(stack.client, "x", n=3, seed=0)
        totals = await stack.until_idle()
    assert (totals.failed, totals.completed) == (1, 0)
    worker.wait(lambda worker: len(worker.cancelled) == 2)


async def test_cancel_ends_all_choices(model_dir: Path) -> None:
    worker = ScriptedWorker()
    async with serving(model_dir, worker) as stack:
        asking = asyncio.create_task(collect(stack.client, "x", request_id="mine", n=4))
        await asyncio.to_thread(worker.wait_for_request, 4)
        await stack.client.cancel("mine")
        with pytest.raises(RequestCancelledError):
            await asking
        totals = await stack.until_idle()
    assert totals.cancelled == 1
    worker.wait(lambda worker: not worker.live)
