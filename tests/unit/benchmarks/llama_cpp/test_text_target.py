import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

import pytest

from benchmarks.llama_cpp.text_target import TextTarget
from benchmarks.load_generator import run_work
from benchmarks.workload import Work

WORK = Work(prompt_token_ids=(5, 6, 7), output_tokens=4)


def event(reason: str | None = None) -> bytes:
    """Return an event of llama.cpp's stream."""
    return f"data: {json.dumps({'choices': [{'text': 'a', 'finish_reason': reason}]})}\n\n".encode()


@contextlib.asynccontextmanager
async def answering(*answer: bytes) -> AsyncGenerator[tuple[TextTarget, list[bytes]]]:
    """Yield a target whose server answers each request so, and the bodies of the requests."""
    bodies = list[bytes]()

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split()[0])
        bodies.append(await reader.readexactly(length))
        writer.writelines([b"HTTP/1.1 200 OK\r\n\r\n", *answer])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield TextTarget(f"http://127.0.0.1:{port}", "model", {"ignore_eos": True}), bodies


@pytest.mark.parametrize("num_events", [4, 2])
async def test_the_last_event_counts_for_tokens_that_came_without_one(num_events: int) -> None:
    async with answering(*[event()] * (num_events - 1), event("length")) as (target, _):
        counts = [count async for count in target.stream(WORK)]
    assert len(counts) == num_events
    assert sum(counts) == WORK.output_tokens


async def test_an_empty_last_event_comes_with_the_last_token() -> None:
    async with answering(*[event()] * 4, event("length"), b"data: [DONE]\n\n") as (target, _):
        assert [count async for count in target.stream(WORK)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([event(), event("stop")], "ended an answer early: stop"),
        ([event()], "asked for 4 tokens, got 1"),
        ([b'data: {"error": "no slot"}\n\n'], "answered no slot"),
        ([b'{"error": "no such model"}\n'], "no such model"),
    ],
)
async def test_an_answer_that_is_not_whole_is_no_measurement(
    answer: list[bytes], message: str
) -> None:
    async with answering(*answer) as (target, _):
        with pytest.raises(RuntimeError, match=message):
            await run_work(target, WORK)


async def test_a_request_has_as_many_words_as_its_work_has_tokens_and_the_options() -> None:
    async with answering(event("length")) as (target, bodies):
        await run_work(target, WORK)
        await run_work(target, WORK)
    first, again = map(json.loads, bodies)
    assert first == again
    assert len(first["prompt"].split()) == len(WORK.prompt_token_ids)
    assert (first["max_tokens"], first["temperature"], first["ignore_eos"]) == (4, 0, True)
