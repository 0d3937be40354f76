"""A request of /v1/responses: the fields of a single turn, which carry over to a chat."""

from typing import Literal

from pydantic import Field

from pdserve.errors import InvalidRequestError, Reason
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.fields import OpenAiModel, Unread, refused, without_effect
from router.edge.openai.messages import CalledFunction, Message, TextPart, ToolCall
from router.edge.openai.sampling_fields import JsonSchema, ResponseFormat
from router.edge.openai.tools import (
    FunctionName,
    FunctionSpec,
    NamedChoice,
    NamedFunction,
    Tool,
    ToolChoice,
)

_LOGPROBS = "message.output_text.logprobs"
_TEXTS = {"input_text", "output_text", "text", "refusal"}
_KEEPS_NOTHING = "this server keeps no answers; send the whole conversation as input"

# OpenAI's list; the others belong to items that this server never makes
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
]


class InputPart(OpenAiModel):
    """One part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: object = without_effect("of an answer that was sent back")
    logprobs: object = without_effect("of an answer that was sent back")


class InputItem(OpenAiModel):
    """One item of a conversation: a message, a call of a function, what it gave, or reasoning."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | list[InputPart] | None = None
    summary: object = without_effect("of reasoning, which models do not see again")
    encrypted_content: object = without_effect("of reasoning, which models do not see again")
    id: object = without_effect("of an item that was sent back")
    status: object = without_effect("of an item that was sent back")


class ResponseTool(OpenAiModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str = ""
    parameters: dict[str, object] | None = None
    strict: object = without_effect("forced calls keep to the schema always, free ones never")


class ResponseChoice(OpenAiModel):
    """A tool_choice that names a function."""

    type: Literal["function"]
    name: str


class TextFormat(OpenAiModel):
    """The form of the text."""

    type: str = "text"
    name: str = ""
    description: str = ""
    schema_: dict[str, object] | None = Field(None, alias="schema")
    strict: object = without_effect("a schema is always kept to the letter")


class TextOptions(OpenAiModel):
    """OpenAI's `text`."""

    format: TextFormat = TextFormat()
    verbosity: object = without_effect("say it in a message")


class ReasoningOptions(OpenAiModel):
    """OpenAI's `reasoning`."""

    effort: str | None = None
    summary: object = without_effect("reasoning is shown whole")
    generate_summary: object = without_effect("reasoning is shown whole")


class ResponseRequest(Unread):
    """OpenAI's fields."""

    input: str | list[InputItem]
    model: str = ""
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseChoice | None = None
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    include: list[Included] = Field(default_factory=list)
    stream: bool = False
    previous_response_id: object = refused(_KEEPS_NOTHING)
    conversation: object = refused(_KEEPS_NOTHING)
    background: object = refused(_KEEPS_NOTHING, False)
    truncation: object = refused("too long an input is refused", "disabled")
    prompt: object = refused("there are no stored prompts")
    stream_options: object = without_effect("usage comes with the last event")
    max_tool_calls: object = without_effect("the client runs all tools")

    def to_chat(self) -> ChatRequest:
        """Return the chat that means the same. Raises InvalidRequestError."""
        messages = [] if self.instructions is None else [_message("system", self.instructions)]
        if isinstance(self.input, str):
            messages.append(_message("user", self.input))
        else:
            messages += _to_messages(self.input)
        has_logprobs = _LOGPROBS in self.include or bool(self.top_logprobs)
        values: dict[str, object] = {
            "model": self.model,
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "logprobs": has_logprobs,
            "top_logprobs": self.top_logprobs if has_logprobs else None,
            "tools": None if self.tools is None else [_tool(tool) for tool in self.tools],
            "tool_choice": _choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "reasoning_effort": self.reasoning.effort,
            "response_format": _format(self.text.format),
        }
        stated = {name: value for name, value in values.items() if value is not None}
        return ChatRequest(messages=messages, **stated)  # type: ignore[arg-type]


def _to_messages(items: list[InputItem]) -> list[Message]:
    """Return the turns. Calls that follow each other, or a text of the assistant, are one turn."""
    messages: list[Message] = []
    for number, item in enumerate(items):
        field = f"input.{number}"
        if item.type == "function_call":
            function = CalledFunction(name=item.name, arguments=item.arguments)
            call = ToolCall(id=item.call_id, function=function)
            last = messages[-1] if messages and messages[-1].role == "assistant" else None
            calls = [*((last.tool_calls or []) if last else []), call]
            if last is not None:
                messages.pop()
            text = last.content if last else None
            messages.append(Message(role="assistant", content=text, tool_calls=calls))
        elif item.type == "function_call_output":
            text = _text(item.output, f"{field}.output")
            messages.append(Message(role="tool", content=text, tool_call_id=item.call_id))
        elif item.type == "message":
            if item.role is None:
                raise InvalidRequestError("is missing", field=f"{field}.role")
            messages.append(_message(item.role, _text(item.content, f"{field}.content")))
    if not messages:
        raise InvalidRequestError("is empty", reason=Reason.EMPTY_PROMPT, field="input")
    return messages


def _message(role: Literal["system", "developer", "user", "assistant"], text: str) -> Message:
    return Message(role=role, content=text)


def _text(content: str | list[InputPart] | None, field: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in _TEXTS:
            message = f"a part of type {part.type!r} is not supported; the model takes text"
            raise InvalidRequestError(message, field=field)
    parts = [TextPart(type="text", text=part.text or part.refusal or "") for part in content]
    return "\n".join(part.text or "" for part in parts)


def _tool(tool: ResponseTool) -> Tool:
    spec = FunctionSpec(name=tool.name, description=tool.description, parameters=tool.parameters)
    return Tool(type="function", function=spec)


def _choice(choice: object) -> ToolChoice | None:
    if isinstance(choice, ResponseChoice):
        return NamedChoice(type="function", function=NamedFunction(name=choice.name))
    return choice  # type: ignore[return-value]  # the words are the same


def _format(asked: TextFormat) -> ResponseFormat | None:
    if asked.type == "text":
        return None
    schema = None
    if asked.schema_ is not None:
        schema = JsonSchema(name=asked.name, schema=asked.schema_)
    return ResponseFormat(type=asked.type, json_schema=schema)
