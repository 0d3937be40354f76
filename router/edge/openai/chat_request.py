"""A request of /v1/chat/completions."""

from typing import ClassVar

from pydantic import Field

from pdserve.errors import InvalidRequestError
from router.edge.openai.fields import refused, without_effect
from router.edge.openai.messages import Message
from router.edge.openai.sampling_fields import SamplingFields
from router.edge.openai.tools import Tool, ToolChoice


class ChatRequest(SamplingFields):
    """OpenAI's fields, and those that vLLM adds."""

    prompt_field: ClassVar[str] = "messages"
    logprobs_field: ClassVar[str] = "top_logprobs"

    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    # vLLM's
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, object] = Field(default_factory=dict)
    documents: list[dict[str, object]] | None = None
    echo: object = refused("use continue_final_message", False)
    add_special_tokens: object = refused("the chat template writes them", False)
    chat_template: object = refused("templates are programs; the model's own is used")
    include_reasoning: object = without_effect("reasoning has a field of its own")
    mm_processor_kwargs: object = refused("the model takes text", {})
    modalities: object = refused("the model gives text", ["text"])
    audio: object = refused("the model gives text")
    prediction: object = refused("there is no speculative decoding")
    functions: object = refused("use tools", [])
    function_call: object = refused("use tool_choice", "none")
    web_search_options: object = refused("there is no search")
    verbosity: object = without_effect("say it in a message")

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of the answer; None: what the context leaves."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """The number of likeliest tokens at each place; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """Refuse what contradicts itself. Raises InvalidRequestError."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("goes with logprobs: true only", field="top_logprobs")
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            message = "differs from max_tokens, which is its older name"
            raise InvalidRequestError(message, field="max_completion_tokens")
        wants_turn = self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set
        if self.continue_final_message and wants_turn:
            message = "does not go with add_generation_prompt"
            raise InvalidRequestError(message, field="continue_final_message")
        if self.continue_final_message and self.messages[-1:] and self._ends_with_calls():
            message = "the last message has no text to continue"
            raise InvalidRequestError(message, field="continue_final_message")

    def _ends_with_calls(self) -> bool:
        last = self.messages[-1]
        return bool(last.tool_calls) or not last.content
