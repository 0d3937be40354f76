"""Tool calls that are the whole answer, as JSON: Llama 3 (one object), Mistral (a list of them)."""

import json
from collections.abc import Sequence

from router.edge.openai.parsing.calls import call_events
from router.edge.openai.parsing.events import Content, Event

_MARKS = ("<|python_tag|>", "[TOOL_CALLS]")


class JsonCalls:
    """Holds an answer back that begins like a call, and knows at its end whether it was one."""

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        if self._is_text:
            return [Content(text)] if text else []
        self._held += text
        start = self._held.lstrip()
        if not start or start[0] in "{[" or any(mark.startswith(start) for mark in _MARKS):
            return []
        if start.startswith(_MARKS):
            return []
        return self._as_text()

    def finish(self) -> Sequence[Event]:
        """Return the calls, or the text that was none."""
        if self._is_text or not self._held:
            return []
        events = self._calls()
        return self._as_text() if events is None else events

    def _as_text(self) -> list[Event]:
        held, self._held, self._is_text = self._held, "", True
        return [Content(held)] if held else []

    def _calls(self) -> list[Event] | None:
        text = self._held.strip()
        for mark in _MARKS:
            text = text.removeprefix(mark).lstrip()
        try:
            calls = _all_values(text)
        except ValueError:
            return None
        events: list[Event] = []
        for number, call in enumerate(calls):
            found = call_events(call, number)
            if found is None:
                return None
            events += found
        return events or None


def _all_values(text: str) -> list[object]:
    """Return the calls of a text: a list, or objects one after the other (Llama puts `;` between)."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found += value if isinstance(value, list) else [value]
        while at < len(text) and text[at] in " \t\r\n;":
            at += 1
    return found
