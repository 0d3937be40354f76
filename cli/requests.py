"""What the client-side commands share: sending a request, describing its answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from cli.sampling import DEFAULT_MAX_TOKENS, describe_logprobs
from cli.timings import describe_timings
from pdserve.client import AsyncClient
from pdserve.completion import FINISH_NAMES, Completion, Continuation
from pdserve.errors import InvalidRequestError, Reason
from pdserve.prompts import Messages, Prompt, make_request
from pdserve.v1 import inference_pb2

_NO_ROOM = {Reason.CONTEXT_EXCEEDED, Reason.KV_CAPACITY_EXCEEDED}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as a command has it; what cannot be sent at all shows when it is."""

    prompt: Prompt
    sampling: inference_pb2.SamplingParams
    request_id: str = ""
    model: str = ""
    cache_salt: str = ""
    priority: int = 0

    def check(self) -> None:
        """Raise ValueError for names and a priority that no message holds."""
        inference_pb2.GenerateRequest(
            request_id=self.request_id,
            model=self.model,
            cache_salt=self.cache_salt,
            priority=self.priority,
        )

    def to_message(self) -> inference_pb2.GenerateRequest:
        """The message. Raises InvalidRequestError for a prompt that none holds."""
        message = make_request(self.prompt, self.sampling, self.request_id)
        message.model, message.cache_salt = self.model, self.cache_salt
        message.priority = self.priority
        return message


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

    def to_json(self, line: int | None = None) -> str:
        """One line: ids, text, token_ids, finish_reason, usage, timings (microseconds), logprobs.

        With the line of the file that it answers, if there is one.
        """
        found = self.continuation
        answer = {
            "request_id": self.request_id,
            **({} if line is None else {"line": line}),
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
) -> Answer:
    """Send one prompt; `on_text` gets each piece of text and its number of tokens. Raises RequestError."""
    completion = await complete(client, Ask(prompt, sampling), on_text)
    return Answer(completion.request_id, 0, completion.choices[0])


async def complete(
    client: AsyncClient, asked: Ask, on_text: Callable[[str, int], None] = lambda *_: None
) -> Completion:
    """The whole answer; `on_text` gets pieces of all choices as they come. Raises RequestError.

    Without max_tokens it has DEFAULT_MAX_TOKENS, or as many as there is room for when that is less.
    """
    message = asked.to_message()
    if message.sampling.HasField("max_tokens"):
        return await _receive(client, message, on_text)
    message.sampling.max_tokens = max(DEFAULT_MAX_TOKENS, message.sampling.min_tokens)
    try:
        return await _receive(client, message, on_text)
    except InvalidRequestError as error:
        if error.reason not in _NO_ROOM or error.field != "sampling.max_tokens":
            raise
    # nobody asked for so many: all that there is room for, which is less
    message.sampling.ClearField("max_tokens")
    return await _receive(client, message, on_text)


def to_answers(completion: Completion) -> list[Answer]:
    """Its choices, in their order."""
    return [
        Answer(completion.request_id, number, continuation)
        for number, continuation in enumerate(completion.choices)
    ]


async def _receive(
    client: AsyncClient,
    message: inference_pb2.GenerateRequest,
    on_text: Callable[[str, int], None],
) -> Completion:
    completion = Completion()
    async for response in client.send(message):
        completion.add(response)
        on_text(response.text, len(response.token_ids))
    return completion


def as_chat(text: str) -> Messages:
    """A single user turn."""
    return [("user", text)]
