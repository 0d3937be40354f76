"""Answers of real workers that another router goes on with: text and tokens are those of one run.

The client library makes the requests; the messages that have come are cut where a test wants it.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.rpc.worker_host import WorkerHost
from pdserve.client import AsyncClient
from pdserve.completion import Completion
from pdserve.errors import InternalError, InvalidRequestError, Reason
from pdserve.received import OutputSoFar
from pdserve.v1 import inference_pb2
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    Workers,
    held,
    in_engine,
    until,
)
from tests.integration.support.router_stack import ALWAYS_PREFILL, HOST, Stack, routing
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import engine_config, save_model
from tests.unit.common.grammar.allowed import EOS, VOCAB
from tests.unit.router.tiny_tokenizer import write_folder

Request = inference_pb2.GenerateRequest
Sampling = inference_pb2.SamplingParams
Read = list[inference_pb2.GenerateResponse]
PROMPT = [(11 * place + 5) % 256 for place in range(40)]
SCHEMA = json.dumps(
    {"type": "object", "properties": {"id": {"enum": [12, 345]}}, "required": ["id"]}
)
WIDE = "[日本語🎉é]{5}"  # of bytes each
KINDS: dict[str, dict[str, object]] = {
    "greedy": {},
    "without a seed": {"temperature": 0.9},
    "penalties": {
        "temperature": 0.8,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "seed": 7,
    },
    "n = 2": {"temperature": 0.8, "n": 2, "seed": 3, "stop_token_ids": [*range(0, 256, 20)]},
    "logprobs": {"temperature": 0.7, "logprobs": 3, "prompt_logprobs": 1, "seed": 8},
    "stop texts": {"temperature": 0.9, "seed": 9},
    "bans": {"temperature": 0.9, "min_tokens": 9, "bad_words": ["ab"], "stop_token_ids": [1, 2, 3]},
    "json_schema": {"temperature": 0.9, "structured_output": {"json_schema": SCHEMA}},
    "wide characters": {"temperature": 0.9, "structured_output": {"regex": WIDE}},
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two routers of the same two workers."""

    runner: asyncio.Runner
    one: Stack
    other: Stack
    workers: Workers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("llama")
    model = write_folder(save_model(folder, "llama", vocab_size=VOCAB, eos_token_id=EOS))
    config = engine_config(num_blocks=600)
    with (
        Workers(model, prefill_config=CHUNKS_OF_16, decode_config=config) as workers,
        asyncio.Runner() as runner,
    ):
        hosts = [WorkerHost(worker, HOST) for worker in (workers.decode, workers.prefill)]
        addresses = [host.start() for host in hosts]
        stacks = [routing(model, addresses, ALWAYS_PREFILL) for _ in range(2)]
        one, other = (runner.run(stack.__aenter__()) for stack in stacks)
        yield Pair(runner, one, other, workers)
        for stack in (one, other):
            totals = runner.run(stack.until_idle())
            assert totals.cancelled == 0
        for routed in stacks:
            runner.run(routed.__aexit__(None, None, None))
        for host in hosts:
            host.stop(WITHIN_S)
        until(lambda: held(workers.decode) + held(workers.prefill) == 0, "free of blocks")
        for worker in (workers.decode, workers.prefill):
            in_engine(worker, worker._engine.check_integrity)
        assert not workers.crashes


def request_of(kind: str, request_id: str, **more: object) -> Request:
    sampling = {"max_tokens": 14, **KINDS[kind], **more}
    prompt = inference_pb2.TokenPrompt(token_ids=PROMPT)
    return Request(
        request_id=request_id,
        tokens=prompt,
        cache_salt=request_id,
        resumable=True,
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
    )


async def read(client: AsyncClient, request: Request) -> Read:
    return [part async for part in client.send(request, timeout=WITHIN_S)]


async def go_on(client: AsyncClient, request: Request, so_far: Read, name: str) -> Read:
    """Return the messages of a router that goes on behind those of others."""
    output = OutputSoFar(request)
    for part in so_far:
        output.add(part)
    rest = output.ask_for_rest()
    assert rest is not None
    rest.request_id = rest.cache_salt = name
    parts = await read(client, rest)
    for part in parts:
        output.add(part)  # finds a token that is doubled or missing
    assert output.is_whole
    return parts


def answer(parts: Read) -> list[tuple[object, ...]]:
    """Return all that a client learns of each choice, where it does not depend on the way."""
    completion = Completion()
    for part in sorted(parts, key=lambda part: part.choice):
        completion.add(part)
    return [
        (
            choice.text,
            choice.token_ids,
            choice.finish_reason,
            choice.finished.seed,
            choice.finished.usage.completion_tokens,
            [(one.logprob, *one.top_token_ids, *one.top_logprobs) for one in choice.logprobs],
            [(one.logprob, *one.top_token_ids) for one in choice.prompt_logprobs],
        )
        for choice in completion.choices
    ]


async def undisturbed(pair: Pair, kind: str, name: str) -> tuple[Request, Read]:
    """Return a request of this kind and its messages at the first router."""
    request = request_of(kind, name)
    parts = await read(pair.one.client, request)
    if kind == "stop texts":  # those that make the router hold text back, and one that ends it
        text = "".join(part.text for part in parts)
        stops = [text[3:5] + "never", text[6:8] + "never", text[-5:-2]]
        request = request_of(kind, f"{name}/stops", stop=stops)
        parts = await read(pair.one.client, request)
        assert parts[-1].finished.reason == inference_pb2.FINISH_REASON_STOP
    return request, parts


async def check_every_cut(pair: Pair, kind: str) -> int:
    """Go on behind each message of a request but the last; return the number of cuts."""
    request, whole = await undisturbed(pair, kind, f"whole/{kind}".replace(" ", "-"))
    cuts = range(1, len(whole))
    rests = [
        go_on(pair.other.client, request, whole[:cut], f"{request.request_id}/{cut}")
        for cut in cuts
    ]
    for cut, rest in zip(cuts, await asyncio.gather(*rests), strict=True):
        assert answer(whole[:cut] + rest) == answer(whole), cut
        assert len(rest) >= 1
    return len(cuts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_what_one_router_gives(pair: Pair, kind: str) -> None:
    assert pair.runner.run(check_every_cut(pair, kind)) > 5


def test_the_router_may_change_again_and_again(pair: Pair) -> None:
    requests = {
        kind: pair.runner.run(undisturbed(pair, kind, f"often/{kind}".replace(" ", "-")))
        for kind in ("without a seed", "n = 2", "stop texts", "wide characters")
    }
    runs = iter(range(1000))

    async def change(kind: str, places: list[int]) -> None:
        request, whole = requests[kind]
        so_far, name = Read(), f"change-{next(runs)}"
        for number, place in enumerate(places):
            parts = (
                await go_on((pair.one, pair.other)[number % 2].client, request, so_far, name)
                if so_far
                else whole
            )
            left = parts[: max(place % len(parts), 1 - len(so_far))]
            so_far += left
        parts = await go_on(pair.other.client, request, so_far, f"{name}/last") if so_far else whole
        assert answer(so_far + parts) == answer(whole)

    @settings(max_examples=15, derandomize=True, deadline=None, database=None)
    @given(st.sampled_from([*requests]), st.lists(st.integers(0, 12), max_size=4))
    def check(kind: str, places: list[int]) -> None:
        pair.runner.run(change(kind, places))

    check()


def test_tokens_that_cannot_be_hurt_nobody(pair: Pair) -> None:
    async def check() -> None:
        client = pair.other.client
        bad = request_of("json_schema", "bad", seed=1)
        bad.received.add(token_ids=b"not JSON")
        with pytest.raises(InternalError) as caught:
            await read(client, bad)
        assert caught.value.reason is Reason.GRAMMAR_FAILED
        ended = request_of("greedy", "ended", seed=1, stop=["END"])
        ended.received.add(token_ids=b"an END")
        with pytest.raises(InvalidRequestError) as refused:
            await read(client, ended)
        assert refused.value.field == "received.token_ids"
        assert len(await read(client, request_of("json_schema", "good"))) > 1

    pair.runner.run(check())
