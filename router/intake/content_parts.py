"""Messages' texts as lists of parts, for templates that read no other form (SmolVLM, Idefics 3)."""

from collections.abc import Callable, Mapping

from pdserve.errors import InvalidRequestError

_PROBE = "probe of pdserve"
Render = Callable[[Mapping[str, object]], str]


def wants_parts(render: Render) -> bool:
    """Return True if a template drops a text that is no list of parts, and shows one that is."""
    return not _shows(render, _PROBE) and _shows(render, as_parts(_PROBE))


def with_parts(variables: Mapping[str, object]) -> dict[str, object]:
    """Return a template's variables with each message's text as one part."""
    messages = variables.get("messages")
    if not isinstance(messages, list):
        return dict(variables)
    turns = [
        {**turn, "content": as_parts(turn["content"])}
        if isinstance(turn, dict) and isinstance(turn.get("content"), str)
        else turn
        for turn in messages
    ]
    return {**variables, "messages": turns}


def as_parts(text: str) -> list[dict[str, str]]:
    """Return a text as the only part of a message."""
    return [{"type": "text", "text": text}]


def _shows(render: Render, content: object) -> bool:
    messages = [{"role": "user", "content": content}]
    try:
        return _PROBE in render({"messages": messages, "add_generation_prompt": True})
    except InvalidRequestError:
        return False
