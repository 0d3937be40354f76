"""What the client-side commands share: reading prompts, sending one, describing the answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cli.sampling import describe_logprobs
from cli.timings import describe_timings
from pdserve.client import AsyncClient, Messages
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2

FINISH_NAMES = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}

Prompt = str | Messages | list[int]


@dataclass(slots=True)
class Answer:
    """One continuation, filled in as it streams."""

    request_id: str = ""
    choice: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finished: inference_pb2.Finished | None = None
    logprobs: list[inference_pb2.TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[inference_pb2.TokenLogprobs] = field(default_factory=list)

    def to_json(self) -> str:
        """One line: ids, text, token_ids, finish_reason, usage, timings (microseconds), logprobs."""
        answer = {
            "request_id": self.request_id,
            "choice": self.choice,
            "text": self.text,
            "token_ids": self.token_ids,
            **describe_finished(self.finished or inference_pb2.Finished()),
            **self._logprobs(),
        }
        return json.dumps(answer, ensure_ascii=False)

    def _logprobs(self) -> dict[str, list[dict[str, float | list[list[float]]]]]:
        """Only if they were asked for, so that other answers stay short."""
        found = {"logprobs": self.logprobs, "prompt_logprobs": self.prompt_logprobs}
        return {name: describe_logprobs(entries) for name, entries in found.items() if entries}


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
    answers: dict[int, Answer] = {}
    async for response in client.generate(prompt, sampling, request_id=request_id):
        answer = answers.setdefault(response.choice, Answer(response.request_id, response.choice))
        answer.text += response.text
        answer.token_ids.extend(response.token_ids)
        answer.logprobs.extend(response.logprobs)
        answer.prompt_logprobs.extend(response.prompt_logprobs)
        on_text(response.text, len(response.token_ids))
        if response.HasField("finished"):
            answer.finished = response.finished
    return [answers[choice] for choice in sorted(answers)]


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
