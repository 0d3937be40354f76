"""What the client-side commands share: reading prompts, sending one, describing the answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.sampling import describe_logprobs
from cli.timings import describe_timings
from pdserve.client import AsyncClient
from pdserve.completion import FINISH_NAMES, Completion, Continuation
from pdserve.errors import SetupError
from pdserve.prompts import Messages, Prompt
from pdserve.v1 import inference_pb2


@dataclass(slots=True)
class Answer:
    """One continuation and what it belongs to."""

    request_id: str
    number: int
    continuation: Continuation

    @property
    def text(self) -> str:
        """Its text."""
        return self.continuation.text

    def to_json(self) -> str:
        """One line: ids, text, token_ids, finish_reason, usage, timings (microseconds), logprobs."""
        found = self.continuation
        answer = {
            "request_id": self.request_id,
            "choice": self.number,
            "text": found.text,
            "token_ids": found.token_ids,
            **describe_finished(found.finished),
        }
        # only if they were asked for, so that other answers stay short
        if found.logprobs:
            answer["logprobs"] = describe_logprobs(found.logprobs)
        if found.prompt_logprobs:
            answer["prompt_logprobs"] = describe_logprobs(found.prompt_logprobs)
        return json.dumps(answer, ensure_ascii=False)


def describe_finished(done: inference_pb2.Finished) -> dict[str, object]:
    """The stable JSON form of how a choice ended."""
    return {
        "finish_reason": FINISH_NAMES.get(done.reason, ""),
        "usage": {
            "prompt_tokens": done.usage.prompt_tokens,
            "completion_tokens": done.usage.completion_tokens,
            "cached_tokens": done.usage.cached_tokens,
        },
        "timings": describe_timings(done.timings),
        "seed": done.seed,
        "prefill_worker": done.prefill_worker,
        "decode_worker": done.decode_worker,
    }


async def ask(
    client: AsyncClient,
    prompt: Prompt,
    sampling: inference_pb2.SamplingParams,
    on_text: Callable[[str, int], None],
    request_id: str = "",
) -> Answer:
    """Send one prompt; `on_text` gets each piece of text and its number of tokens. Raises RequestError."""
    (answer,) = await ask_all(client, prompt, sampling, on_text, request_id)
    return answer


async def ask_all(
    client: AsyncClient,
    prompt: Prompt,
    sampling: inference_pb2.SamplingParams,
    on_text: Callable[[str, int], None],
    request_id: str = "",
) -> list[Answer]:
    """The same for all choices, in their order; `on_text` gets pieces of all."""
    completion = Completion()
    async for response in client.stream(prompt, sampling, request_id=request_id):
        completion.add(response)
        on_text(response.text, len(response.token_ids))
    return [
        Answer(completion.request_id, number, continuation)
        for number, continuation in enumerate(completion.choices)
    ]


def as_chat(text: str) -> Messages:
    """A single user turn."""
    return [("user", text)]


def read_prompts(file: Path, *, raw: bool) -> list[tuple[str, Prompt]]:
    """(request_id, prompt) of each line: {"prompt": str} | {"messages": [...]} | {"token_ids": [...]}.

    Raises SetupError with the line's number.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--prompts-file {file} cannot be read: {error}") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                prompts.append(_parse_line(json.loads(line), raw=raw))
            except (ValueError, TypeError, KeyError) as error:
                raise SetupError(
                    f"--prompts-file {file} line {number}: {error}",
                    'each line is {"prompt": ...}, {"messages": [...]} or {"token_ids": [...]}',
                ) from error
    if not prompts:
        raise SetupError(f"--prompts-file {file} holds no prompts")
    return prompts


def _parse_line(entry: object, *, raw: bool) -> tuple[str, Prompt]:
    if not isinstance(entry, dict):
        raise TypeError("not a JSON object")
    request_id = str(entry.get("request_id", ""))
    if "token_ids" in entry:
        return request_id, [int(token_id) for token_id in entry["token_ids"]]
    if "messages" in entry:
        return request_id, [(str(m["role"]), str(m["content"])) for m in entry["messages"]]
    if not isinstance(entry.get("prompt"), str):
        raise TypeError("no prompt")
    return request_id, entry["prompt"] if raw else as_chat(entry["prompt"])
