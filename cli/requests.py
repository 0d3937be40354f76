"""Requests of the client commands: sending them, and describing their answers."""

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
    """A request of a command; `check` and `to_message` report what cannot be sent."""

    prompt: Prompt
    sampling: inference_pb2.SamplingParams
    request_id: str = ""
    model: str = ""
    cache_salt: str = ""
    priority: int = 0

    def check(self) -> None:
        """Raise ValueError for names and a priority that the message cannot hold."""
        inference_pb2.GenerateRequest(
            request_id=self.request_id,
            model=self.model,
            cache_salt=self.cache_salt,
            priority=self.priority,
        )

    def to_message(self) -> inference_pb2.GenerateRequest:
        """Build the message. Raises InvalidRequestError for a prompt that it cannot hold."""
        message = make_request(self.prompt, self.sampling, self.request_id)
        message.model, message.cache_salt = self.model, self.cache_salt
        message.priority = self.priority
        return message


@dataclass(slots=True)
class Answer:
    """One continuation, with the request and choice that it belongs to."""

    request_id: str
    number: int
    continuation: Continuation

    @property
    def text(self) -> str:
        """The text of the continuation."""
        return self.continuation.text

    def to_json(self, line: int | None = None) -> str:
        """Return one line of JSON, with `line` if the request came from a line of a file.

        The keys are ids, text, token_ids, finish_reason, usage, timings (microseconds), logprobs.
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
        # added only if requested, so that other answers stay short
        if found.logprobs:
            answer["logprobs"] = describe_logprobs(found.logprobs)
        if found.prompt_logprobs:
            answer["prompt_logprobs"] = describe_logprobs(found.prompt_logprobs)
        return json.dumps(answer, ensure_ascii=False)


def describe_finished(done: inference_pb2.Finished) -> dict[str, object]:
    """Return the stable JSON form of a choice's end."""
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
    """Send one prompt and return its answer. Raises RequestError.

    `on_text` gets each piece of text and its number of tokens.
    """
    completion = await complete(client, Ask(prompt, sampling), on_text)
    return Answer(completion.request_id, 0, completion.choices[0])


async def complete(
    client: AsyncClient, asked: Ask, on_text: Callable[[str, int], None] = lambda *_: None
) -> Completion:
    """Return the complete answer; `on_text` gets pieces of all choices as they come.

    Without max_tokens the limit is DEFAULT_MAX_TOKENS, or the free context if that is less.
    Raises RequestError.
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
    # the user set no limit: use all the room there is, which is less than the default
    message.sampling.ClearField("max_tokens")
    return await _receive(client, message, on_text)


def to_answers(completion: Completion) -> list[Answer]:
    """Return the choices of a completion, in their order."""
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
    """Return a single user turn."""
    return [("user", text)]
