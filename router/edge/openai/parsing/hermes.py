"""Tool calls of Hermes, Qwen and SmolLM3: <tool_call>{"name": ..., "arguments": ...}</tool_call>."""

import json
from collections.abc import Sequence

from router.edge.openai.parsing.calls import call_events
from router.edge.openai.parsing.events import Content, Event, held_back

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesCalls:
    """Finds calls in a text. What is marked as one and is none stays text.

    Blanks alone before and between calls are no text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_inside = False
        self._has_text = False  # since the start or the last call
        self._num_calls = 0

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        self._held += text
        events: list[Event] = []
        while (found := self._step()) is not None:
            events += found
        return events

    def finish(self) -> Sequence[Event]:
        """Return what was held back; a call that was cut off is text."""
        held, self._held = self._held, ""
        return self._text(OPEN + held if self._is_inside else held)

    def _step(self) -> list[Event] | None:
        mark = CLOSE if self._is_inside else OPEN
        before, found, after = self._held.partition(mark)
        if not found:
            return None if self._is_inside else self._release()
        self._held = after
        self._is_inside = not self._is_inside
        return self._text(before) if self._is_inside else self._call(before)

    def _release(self) -> list[Event] | None:
        """Return the text before what may become a mark."""
        safe = len(self._held) - held_back(self._held, OPEN)
        events = self._text(self._held[:safe])
        if not events:
            return None
        self._held = self._held[safe:]
        return events

    def _text(self, text: str) -> list[Event]:
        self._has_text = self._has_text or not (not text or text.isspace())
        return [Content(text)] if text and self._has_text else []

    def _call(self, text: str) -> list[Event]:
        try:
            events = call_events(json.loads(text), self._num_calls)
        except ValueError:
            events = None
        if events is None:
            return self._text(OPEN + text + CLOSE)
        self._num_calls += 1
        self._has_text = False
        return events
