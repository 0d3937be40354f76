"""Chat and text completions: from a checked request to the messages of its answer."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from router.edge.openai import chat, completions
from router.edge.openai.answers import Counts, Head, Json
from router.edge.openai.chat import ChatPiece
from router.edge.openai.chat_endpoint import ChatEndpoint
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.choices import Choices
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.completions import CompletionChoice, TextPiece
from router.edge.openai.field_names import own_names
from router.edge.openai.generation import Generation, Piece
from router.edge.openai.prompts import Prompt, text_prompt
from router.edge.openai.responses.endpoint import ResponseEndpoint
from router.edge.openai.sampling_fields import SamplingFields, to_sampling
from router.intake.intake import Intake
from router.intake.job import Job, check_model
from router.intake.wire_values import to_int32
from router.journey.journey import Journeys


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that may run: its jobs, and how their deltas are shown."""

    head: Head
    jobs: Sequence[Job]
    choices: Choices[ChatPiece] | Choices[TextPiece]
    asked: SamplingFields

    def index_of(self, piece: Piece) -> int:
        """Return the choice that a piece belongs to: those of a prompt follow each other."""
        return piece.prompt * self.jobs[0].num_choices + piece.delta.choice

    def count(self) -> Counts:
        """Return the counts before the first token."""
        return Counts(sum(len(job.prompt_token_ids) for job in self.jobs))


class Endpoints:
    """Turns requests into answers. Holds no state of any."""

    def __init__(self, intake: Intake, journeys: Journeys) -> None:
        self._intake = intake
        self._limits = intake.limits
        self._tokenizer = intake.tokenizer
        self._generation = Generation(intake, journeys)
        self._chats = ChatEndpoint(intake, self._generation)
        self.responses = ResponseEndpoint(intake.limits.model, self._chats, self._generation)

    async def open_chat(self, asked: ChatRequest, request_id: str) -> Answer:
        """Prepare a chat completion. Raises RequestError."""
        with own_names(asked):
            opened = await self._chats.open(asked, request_id)
        kind = "chat.completion.chunk" if asked.stream else "chat.completion"
        head = Head(f"chatcmpl-{request_id}", kind, self._limits.model)
        choices = Choices([choice.take for choice in opened.choices], chat.whole_choices)
        return Answer(head, [opened.job], choices, asked)

    async def open_completion(self, asked: CompletionRequest, request_id: str) -> Answer:
        """Prepare a text completion. Raises RequestError."""
        with self._intake.counting_refusals(request_id):
            asked.check()
            check_model(asked.model, self._limits)
            sampling = to_sampling(asked, self._limits.defaults, asked.max_tokens)
            if asked.logprobs is not None:
                sampling.logprobs = to_int32(asked.logprobs)
            prompts = await asyncio.to_thread(self._prompts, asked)
        with own_names(asked):
            jobs = await self._generation.make_jobs(asked, sampling, prompts, request_id)
        pairs = zip(jobs, prompts, strict=True)
        each = [pair for pair in pairs for _ in range(pair[0].num_choices)]
        found = [
            CompletionChoice(
                index,
                self._echo(prompt, asked),
                job.prompt_token_ids,
                self._tokenizer.bytes_of,
                asked.return_token_ids,
                asked.include_stop_str_in_output,
            )
            for index, (job, prompt) in enumerate(each)
        ]
        head = Head(f"cmpl-{request_id}", "text_completion", self._limits.model)
        choices = Choices([choice.take for choice in found], completions.whole_choices)
        return Answer(head, jobs, choices, asked)

    async def stream(self, answer: Answer) -> AsyncGenerator[Json]:
        """Yield the messages of a streamed answer. Raises RequestError; closing it cancels."""
        counts, options = answer.count(), answer.asked.stream_options
        is_continuous = options is not None and options.continuous_usage_stats
        async with aclosing(self._generation.run(answer.jobs)) as pieces:
            async for piece in pieces:
                counts.add(piece.delta)
                for choice in answer.choices.stream(answer.index_of(piece), piece.delta):
                    message = answer.head.message([choice])
                    if is_continuous:
                        message["usage"] = counts.usage()
                    elif answer.asked.includes_usage:
                        message["usage"] = None
                    yield message
        if answer.asked.includes_usage:
            yield {**answer.head.message([]), "usage": counts.usage()}

    async def whole(self, answer: Answer) -> Json:
        """Return an answer that is sent at once. Raises RequestError."""
        counts = answer.count()
        async with aclosing(self._generation.run(answer.jobs)) as pieces:
            async for piece in pieces:
                counts.add(piece.delta)
                answer.choices.keep(answer.index_of(piece), piece.delta)
        return {**answer.head.message(answer.choices.whole()), "usage": counts.usage()}

    def _prompts(self, asked: CompletionRequest) -> list[Prompt]:
        make = partial(
            text_prompt,
            tokenizer=self._tokenizer,
            limits=self._limits,
            add_special_tokens=asked.add_special_tokens,
            keep=asked.truncate_prompt_tokens,
        )
        return [make(prompt) for prompt in asked.prompts()]

    def _echo(self, prompt: Prompt, asked: CompletionRequest) -> str:
        if not asked.echo:
            return ""
        return prompt.text or self._tokenizer.decode(prompt.token_ids)


def make_request_id() -> str:
    """Return a new id."""
    return secrets.token_hex(12)
