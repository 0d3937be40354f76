"""OpenAI's API as HTTP: pages, statuses, headers, bodies, and clients that leave."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from structlog.testing import capture_logs

from common.router_config import RouterConfig
from pdserve.v1 import admin_pb2
from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.router_stack import HOST, MODEL, NO_WAIT
from tests.integration.support.scripted_worker import CONTEXT, ScriptedWorker
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the fixtures

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": MODEL, "prompt": "abc"}


async def test_the_model_is_listed_and_described(api: OpenAiStack) -> None:
    assert [model.id async for model in api.client.models.list()] == [MODEL]
    model: Any = await api.client.models.retrieve(MODEL)
    assert (model.id, model.max_model_len) == (MODEL, CONTEXT)
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        await api.client.models.retrieve("other/model")


async def test_tokens_go_both_ways(api: OpenAiStack) -> None:
    asked = {"prompt": "hé", "return_token_strs": True}
    found = (await api.http.post("/tokenize", json=asked)).json()
    assert (found["tokens"], found["count"], found["max_model_len"]) == (
        [104, 195, 169],
        3,
        CONTEXT,
    )
    assert len(found["token_strs"]) == 3
    text = (await api.http.post("/detokenize", json={"tokens": found["tokens"]})).json()
    assert text == {"prompt": "hé"}
    chat = {"messages": [{"role": "user", "content": "a"}]}
    ids = (await api.http.post("/tokenize", json=chat)).json()["tokens"]
    text = (await api.http.post("/detokenize", json={"tokens": ids})).json()
    assert text["prompt"] == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    for wrong in ([300], [-1]):
        assert (await api.http.post("/detokenize", json={"tokens": wrong})).status_code == 400


async def test_the_version_and_the_metrics_are_shown(api: OpenAiStack) -> None:
    assert (await api.http.get("/version")).json()["version"]
    assert "pdserve_" in (await api.http.get("/metrics")).text


async def test_health_is_what_the_router_says(tmp_path: Path) -> None:
    async with openai_serving(write_folder(tmp_path), ScriptedWorker(), config=NO_WAIT) as api:
        assert (await api.http.get("/health")).status_code == 200
        await api.stack.lose(0)
        await api.stack.until(lambda s: s.workers[0].state == admin_pb2.WORKER_STATE_UNREACHABLE)
        assert (await api.http.get("/health")).status_code == 503
        response = await api.http.post(TEXT, json=ASKED)
    assert (response.status_code, response.json()["error"]["type"]) == (503, "server_error")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (TEXT, b"{", 400, "invalid_value"),
        (TEXT, b'{"prompt": NaN}', 400, "invalid_value"),
        (TEXT, b"[" * 10_000, 400, "invalid_value"),
        (TEXT, b'{"prompt": "\\ud800"}', 400, "invalid_value"),
        (TEXT, b'{"prompt": "a", "model": "b"}', 404, "model_not_found"),
        (TEXT, b'{"prompt": "' + b"a" * 600 + b'"}', 400, "context_length_exceeded"),
        (CHAT, b'{"messages": []}', 400, "empty_prompt"),
        (CHAT, b" " * (8 * 2**20 + 1), 413, "body_too_large"),
        ("/v1/embeddings", b"{}", 404, "not_found"),
        ("/v1/models", b"{}", 405, "method_not_allowed"),
    ],
)
async def test_each_refusal_has_its_status_and_openai_s_form(
    api: OpenAiStack, path: str, body: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await api.http.post(path, content=body, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


async def test_another_content_type_is_refused(api: OpenAiStack) -> None:
    headers = {"content-type": "text/plain"}
    response = await api.http.post(TEXT, content=json.dumps(ASKED).encode(), headers=headers)
    assert response.status_code == 415


async def test_a_body_that_does_not_come_is_given_up(
    api: OpenAiStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.edge.openai.body.READ_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection(HOST, api.http.base_url.port)
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    async with asyncio.timeout(WITHIN_S):
        status = await reader.readline()
    writer.close()
    assert status.split()[1] == b"408"


async def test_an_id_is_the_client_s_and_comes_back(
    api: OpenAiStack, worker: ScriptedWorker
) -> None:
    response = await api.http.post(TEXT, json=ASKED, headers={"X-Request-ID": "trace-1"})
    assert response.headers["x-request-id"] == "trace-1"
    assert response.json()["id"] == "cmpl-trace-1"
    stated = {**ASKED, "request_id": "mine"}
    response = await api.http.post(TEXT, json=stated, headers={"X-Request-ID": "trace-2"})
    assert response.headers["x-request-id"] == "mine"


async def test_a_full_queue_is_a_rate_limit_with_a_time_to_come_back(tmp_path: Path) -> None:
    worker = ScriptedWorker()
    config = RouterConfig(max_queued_requests=1)
    async with openai_serving(write_folder(tmp_path), worker, config=config) as api:
        waiting = asyncio.create_task(api.http.post(TEXT, json=ASKED))
        request = await asyncio.to_thread(worker.wait_for_request)
        response = await api.http.post(TEXT, json=ASKED)
        assert (response.status_code, response.json()["error"]["code"]) == (
            429,
            "rate_limit_exceeded",
        )
        assert int(response.headers["retry-after"]) >= 1
        worker.say(request, "at last", ends=True)
        assert (await waiting).json()["choices"][0]["text"] == "at last"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_request(tmp_path: Path, stream: bool) -> None:
    worker = ScriptedWorker()
    async with openai_serving(write_folder(tmp_path), worker) as api:
        asked = asyncio.create_task(api.http.post(TEXT, json={**ASKED, "stream": stream}))
        request = await asyncio.to_thread(worker.wait_for_request)
        asked.cancel()
        await asyncio.to_thread(worker.wait, lambda w: request.request_id in w.cancelled)
        assert (await api.stack.until_idle()).cancelled == 1


async def test_a_stream_that_is_left_midway_frees_its_request(tmp_path: Path) -> None:
    worker = ScriptedWorker()
    async with openai_serving(write_folder(tmp_path), worker) as api:
        asked: Any = {**ASKED, "stream": True}
        opening = asyncio.create_task(api.client.completions.create(**asked))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "a")
        stream = await opening
        assert (await anext(aiter(stream))).choices[0].text == "a"
        await stream.close()
        await asyncio.to_thread(worker.wait, lambda w: request.request_id in w.cancelled)
        assert (await api.stack.until_idle()).cancelled == 1


async def test_a_failure_within_a_stream_is_said_in_it(tmp_path: Path) -> None:
    worker = ScriptedWorker()
    async with openai_serving(write_folder(tmp_path), worker, config=NO_WAIT) as api:
        asked: Any = {**ASKED, "stream": True}
        opening = asyncio.create_task(api.client.completions.create(**asked))
        request = await asyncio.to_thread(worker.wait_for_request)
        worker.say(request, "a")
        stream = await opening
        await api.stack.lose(0)
        with pytest.raises(openai.APIError, match="the decode worker is gone"):
            async for _ in stream:
                pass


async def test_a_client_that_leaves_before_its_body_is_there_is_forgotten(
    api: OpenAiStack,
) -> None:
    _, writer = await asyncio.open_connection(HOST, api.http.base_url.port)
    head = f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with capture_logs() as logs:
        writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await api.http.post(TEXT, json=ASKED)).status_code == 200
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []
