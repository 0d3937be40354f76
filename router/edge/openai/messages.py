"""Chat messages as OpenAI's API has them, and as chat templates read them."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from pdserve.errors import InvalidRequestError, Reason
from router.edge.openai.fields import OpenAiModel, refused, without_effect
from router.edge.openai.template_style import TemplateStyle


class TextPart(OpenAiModel):
    """One part of a message's content; text is the only kind that a language model takes."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: object = None
    input_audio: object = None
    video_url: object = None
    file: object = None


class CalledFunction(OpenAiModel):
    """The function of a tool call in a conversation's history."""

    name: str
    arguments: str | dict[str, object] = ""


class ToolCall(OpenAiModel):
    """A tool call in a conversation's history."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"
    index: object = without_effect("of a streamed delta that was sent back")


class Message(OpenAiModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    annotations: object = without_effect("of an answer that was sent back")
    function_call: object = refused("use tool_calls")
    audio: object = refused("the model takes text")


def to_template(messages: Sequence[Message], style: TemplateStyle) -> list[dict[str, object]]:
    """Return the messages for a chat template. Raises InvalidRequestError.

    A template that does not name the role `developer` gets `system` for it.
    """
    if not messages:
        message = "a chat needs a message"
        raise InvalidRequestError(message, reason=Reason.EMPTY_PROMPT, field="messages")
    turns = [_turn(m, i, style) for i, m in enumerate(messages)]
    if not any(turn["content"] or turn.get("tool_calls") for turn in turns):
        message = "every message is empty"
        raise InvalidRequestError(message, reason=Reason.EMPTY_PROMPT, field="messages")
    return turns


def _turn(message: Message, number: int, style: TemplateStyle) -> dict[str, object]:
    is_developer = message.role == "developer" and not style.knows_developer
    content = _text(message, f"messages.{number}.content")
    turn: dict[str, object] = {
        "role": "system" if is_developer else message.role,
        "content": None if style.takes_null and message.tool_calls and not content else content,
    }
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, style) for call in message.tool_calls]
    optional: Mapping[str, str | None] = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        **_reasoning(message, style),
    }
    turn.update({key: value for key, value in optional.items() if value is not None})
    return turn


def _reasoning(message: Message, style: TemplateStyle) -> dict[str, str | None]:
    text = message.reasoning_content or message.reasoning
    if not style.takes_thinking:
        return {"reasoning_content": text}
    # such a template takes either thoughts or content before a call
    return {"thinking": None if message.tool_calls and message.content else text}


def _text(message: Message, field: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        return message.refusal or ""
    return "\n".join(_part_text(part, field) for part in message.content)


def _part_text(part: TextPart, field: str) -> str:
    text = {"text": part.text, "refusal": part.refusal}.get(part.type)
    if text is None:
        message = f"a part of type {part.type!r} is not supported; the model takes text"
        raise InvalidRequestError(message, field=field)
    return text


def _call(call: ToolCall, style: TemplateStyle) -> dict[str, object]:
    """Return a call for a template, most of which want arguments as an object where they are one."""
    arguments: object = call.function.arguments
    if style.takes_text_arguments:
        arguments = _as_text(call.function.arguments)
    elif isinstance(arguments, str):
        try:
            parsed = json.loads(arguments) if arguments else {}
        except ValueError:
            parsed = arguments  # the model wrote it like that
        arguments = parsed if isinstance(parsed, dict) else arguments
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _as_text(arguments: str | dict[str, object]) -> str:
    if isinstance(arguments, str):
        return arguments or "{}"
    return json.dumps(arguments, ensure_ascii=False)
