"""Reader of chats and token ids in JSON."""

from cli.batch.fields import as_integer, as_list, as_object, as_text, refuse_unknown
from pdserve.prompts import Messages

_TURN_KEYS = frozenset({"role", "content"})
_PART_KEYS = frozenset({"type", "text"})


def read_messages(value: object) -> Messages:
    """Read turns of {"role", "content"}; a content is a text, or OpenAI's text parts.

    Raises ValueError.
    """
    turns = []
    for number, entry in enumerate(as_list("messages", value)):
        name = f"messages[{number}]"
        turn = as_object(name, entry)
        refuse_unknown(turn, _TURN_KEYS, f"{name}.")
        role = as_text(f"{name}.role", turn.get("role"))
        turns.append((role, _read_content(f"{name}.content", turn.get("content"))))
    return turns


def read_token_ids(name: str, value: object) -> list[int]:
    """Read a list of integers; the router checks that they are tokens. Raises ValueError."""
    return [as_integer(name, token_id) for token_id in as_list(name, value)]


def _read_content(name: str, value: object) -> str:
    if not isinstance(value, list):
        return as_text(name, value)
    texts = []
    for number, entry in enumerate(value):
        part = as_object(f"{name}[{number}]", entry)
        refuse_unknown(part, _PART_KEYS, f"{name}[{number}].")
        if part.get("type") != "text":
            raise ValueError(f"{name}[{number}].type: parts are text here")
        texts.append(as_text(f"{name}[{number}].text", part.get("text")))
    return "".join(texts)
