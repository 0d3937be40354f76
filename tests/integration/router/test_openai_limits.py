"""Refusals of the OpenAI API, and limits of the gateway, over a scripted worker.

If a test of a limit fails, a new smg has removed that limit of docs/use/openai.md.
"""

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from anyio.from_thread import start_blocking_portal
from openai import OpenAI

from common.config import RouterConfig
from common.messages import WorkRequest
from deploy.openai_gateway import OpenAiGateway
from tests.integration.support.router_stack import HOST, MODEL, serving
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

WITHIN_S = 30.0
HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True, slots=True)
class Front:
    """The API, and the requests that reach the worker."""

    url: str
    api: OpenAI
    worker: ScriptedWorker

    def chat(self, **options: Any) -> Any:
        options = {"model": MODEL, "messages": HELLO, "max_tokens": 4} | options
        return self.api.chat.completions.create(**options)

    def complete(self, **options: Any) -> Any:
        create: Any = self.api.completions.create
        return create(**({"model": MODEL, "prompt": "hello", "max_tokens": 4} | options))

    @property
    def last(self) -> WorkRequest:
        return self.worker.requests[-1]


@asynccontextmanager
async def fronting(folder: Path) -> AsyncIterator[Front]:
    def speak(worker: ScriptedWorker, request: WorkRequest) -> None:
        if request.sampling.seed != SILENT:
            echo(worker, request)

    worker = ScriptedWorker(script=speak)
    async with serving(folder, worker, config=RouterConfig(max_queued_requests=1)) as stack:
        gateway = OpenAiGateway(stack.address, HOST, 0)
        await gateway.start(WITHIN_S)
        try:
            url = f"http://{HOST}:{gateway.port}"
            with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
                yield Front(url, api, worker)
        finally:
            await gateway.stop()


SILENT = 4711  # a request with this seed is never answered


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = write_folder(tmp_path_factory.mktemp("model"))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fronting(folder)) as found,
    ):
        yield found


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"model": "other"}, openai.NotFoundError, "other"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"top_p": 1.5}, openai.BadRequestError, "top_p"),
        ({"presence_penalty": 3}, openai.BadRequestError, "presence_penalty"),
        ({"n": 100}, openai.BadRequestError, "n: "),
        ({"logprobs": True, "top_logprobs": 21}, openai.BadRequestError, "top_logprobs"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "wizard"}]}, openai.BadRequestError, "wizard"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 9_999}, openai.BadRequestError, "sampling_params.max_tokens: prompt of"),
        ({"messages": [HELLO[0] | {"content": "x" * 999}]}, openai.BadRequestError, "maximum cont"),
        ({"stop": "x" * 300}, openai.BadRequestError, "sampling_params.stop: each must have 1 to"),
        ({"extra_body": {"regex": "("}}, openai.BadRequestError, "sampling_params.regex: "),
    ],
)
def test_a_bad_request_is_refused_with_the_field_and_its_own_class(
    front: Front, options: dict[str, Any], kind: type[openai.APIStatusError], words: str
) -> None:
    with pytest.raises(kind) as refusal:
        front.chat(**options)
    assert words in refusal.value.message


def test_an_empty_prompt_is_refused(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="the prompt is empty"):
        front.complete(prompt="")


def test_an_unknown_path_is_not_found(front: Front) -> None:
    with pytest.raises(openai.NotFoundError):
        front.api.get("/nothing", cast_to=object)


def test_there_are_no_embeddings(front: Front) -> None:
    with pytest.raises(openai.InternalServerError, match="it has no embeddings") as refusal:
        front.api.embeddings.create(model=MODEL, input="hello")
    assert refusal.value.status_code == 501


def test_a_full_queue_is_a_rate_limit(front: Front) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(front.complete, seed=SILENT)
        front.worker.wait(lambda worker: bool(worker.live))
        with pytest.raises(openai.RateLimitError, match="1 requests are queued"):
            front.chat()
        front.worker.say(front.last, "at last", ends=True)
        assert waiting.result(WITHIN_S).choices[0].text == "at last"


@pytest.mark.parametrize("path", ["/workers", "/v1/tokenizers"])
def test_the_gateways_own_controls_are_shut(front: Front, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(front.url + path, timeout=WITHIN_S)
    with refusal.value as response:
        assert response.code == 401


def test_sampling_reaches_the_worker(front: Front) -> None:
    body = {"top_k": 5, "min_p": 0.25, "repetition_penalty": 1.5, "ignore_eos": True}
    front.chat(temperature=0.5, top_p=0.5, seed=3, frequency_penalty=0.5, extra_body=body)
    got = self_described(front.last)
    assert got == body | {"temperature": 0.5, "top_p": 0.5, "seed": 3, "frequency_penalty": 0.5}


def self_described(request: WorkRequest) -> dict[str, Any]:
    sampling = request.sampling
    names = ("temperature", "top_p", "seed", "frequency_penalty", "top_k", "min_p")
    return {name: getattr(sampling, name) for name in (*names, "repetition_penalty", "ignore_eos")}


# Limits of smg 1.13.


def test_limit_logit_bias_does_not_reach_the_worker(front: Front) -> None:
    front.chat(logit_bias={"5": 10})
    assert front.last.sampling.logit_bias == ()


def test_limit_min_tokens_of_a_chat_does_not_reach_the_worker(front: Front) -> None:
    front.chat(extra_body={"min_tokens": 2})
    assert front.last.sampling.min_tokens == 0
    front.complete(extra_body={"min_tokens": 2})
    assert front.last.sampling.min_tokens == 2


def test_limit_a_choice_of_texts_does_not_reach_the_worker(front: Front) -> None:
    front.chat(extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert front.last.sampling.grammar is None


def test_limit_completions_have_no_log_probabilities(front: Front) -> None:
    assert front.complete(logprobs=2).choices[0].logprobs is None


def test_limit_a_prompt_cannot_be_tokens(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt: data did not match"):
        front.complete(prompt=[104, 105])


def test_a_refusal_is_json_of_openais_shape(front: Front) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        front.chat(temperature=3)
    error = json.loads(refusal.value.response.text)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "temperature")
