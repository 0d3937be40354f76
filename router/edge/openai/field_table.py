"""The table of all fields and what happens to them, for docs/use/openai.md.

Usage: python -m router.edge.openai.field_table > TABLE. A test compares the page with it.
"""

import sys
from collections.abc import Iterator

from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.fields import NoEffect, OpenAiModel, Unsupported, marker_of
from router.edge.openai.responses.request import ResponseRequest

_MODELS: dict[str, type[OpenAiModel]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "responses": ResponseRequest,
}
_HONOURED = "honoured"


def table() -> str:
    """Return the table in Markdown: one line a field, for the endpoints that have it."""
    head = "| field | of | what happens |\n|---|---|---|\n"
    return head + "".join(f"{line}\n" for line in sorted(set(_lines())))


def _lines() -> Iterator[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for endpoint, model in _MODELS.items():
        for name, field in model.model_fields.items():
            found.setdefault((name, _what(marker_of(field))), []).append(endpoint)
    for (name, what), endpoints in found.items():
        of = "all" if len(endpoints) == len(_MODELS) else ", ".join(endpoints)
        yield f"| `{name}` | {of} | {what} |"


def _what(marker: Unsupported | NoEffect | None) -> str:
    if isinstance(marker, NoEffect):
        return f"no effect: {marker.why}"
    if isinstance(marker, Unsupported):
        neutral = ", ".join(f"`{value!r}`" for value in marker.neutral)
        return f"refused: {marker.why}" + (f" (taken: {neutral})" if neutral else "")
    return _HONOURED


if __name__ == "__main__":
    sys.stdout.write(table())
