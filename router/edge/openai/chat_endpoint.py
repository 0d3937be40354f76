"""Opens chats: from a checked request to its job and the choices that show its deltas."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2
from router.edge.openai.chat import ChatChoice
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.generation import Generation
from router.edge.openai.parsing.select import answer_form, can_call
from router.edge.openai.prompts import chat_prompt
from router.edge.openai.sampling_fields import to_sampling
from router.edge.openai.tools import Tool, forced_schema, offered
from router.intake.intake import Intake
from router.intake.job import Job, check_model
from router.intake.wire_values import to_int32


@dataclass(frozen=True, slots=True)
class OpenedChat:
    """A chat that may run."""

    job: Job
    choices: Sequence[ChatChoice]


class ChatEndpoint:
    """Opens chats. Holds no state of any."""

    def __init__(self, intake: Intake, generation: Generation) -> None:
        self._intake = intake
        self._limits = intake.limits
        self._tokenizer = intake.tokenizer
        self._generation = generation

    async def open(self, asked: ChatRequest, request_id: str) -> OpenedChat:
        """Check, render and tokenize a chat. Raises RequestError."""
        with self._intake.counting_refusals(request_id):
            asked.check()
            check_model(asked.model, self._limits)
            tools = offered(asked.tools, asked.tool_choice)
            sampling = to_sampling(asked, self._limits.defaults, asked.most_tokens)
            if asked.num_logprobs is not None:
                sampling.logprobs = to_int32(asked.num_logprobs)
            is_forced = self._force_calls(asked, tools, sampling)
            render = partial(chat_prompt, asked, tools, self._tokenizer, self._limits)
            prompt = await asyncio.to_thread(render)
        (job,) = await self._generation.make_jobs(asked, sampling, [prompt], request_id)
        form = answer_form(self._tokenizer, has_tools=bool(tools), is_forced=is_forced)
        choices = [
            ChatChoice(
                index,
                form.make_parser(prompt.text),
                self._tokenizer.bytes_of,
                asked.return_token_ids,
                asked.include_stop_str_in_output,
            )
            for index in range(job.num_choices)
        ]
        return OpenedChat(replace(job, shown_tokens=form.marks), choices)

    def _force_calls(
        self, asked: ChatRequest, tools: list[Tool], sampling: inference_pb2.SamplingParams
    ) -> bool:
        """Have a grammar force calls where they are wanted; returns whether it does."""
        schema = forced_schema(tools, asked.tool_choice, parallel=asked.parallel_tool_calls)
        if schema is None:
            if tools and not can_call(self._tokenizer):
                message = "this model's chat template has none; tool_choice: required forces a call"
                raise InvalidRequestError(message, field="tools")
            return False
        if sampling.HasField("structured_output"):
            raise InvalidRequestError("does not go with response_format", field="tool_choice")
        sampling.structured_output.json_schema = schema
        return True
