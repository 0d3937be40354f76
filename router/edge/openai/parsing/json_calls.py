"""Tool calls that are the whole answer, as JSON: Llama 3 (objects), Mistral (a list of them)."""

from collections.abc import Sequence

from router.edge.openai.parsing.events import Content, Event, take_steps
from router.edge.openai.parsing.json_call import JsonCall

MARKS = ("<|python_tag|>", "[TOOL_CALLS]")
_BETWEEN = " \t\r\n,;]"  # Llama puts `;` between calls


class JsonCalls:
    """Reads calls from an answer that begins with one. What follows them is text."""

    def __init__(self) -> None:
        self._held = ""
        self._before = ""  # passed since the last call
        self._call: JsonCall | None = None
        self._num_calls = 0
        self._is_text = False

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        self._held += text
        return take_steps(self._step)

    def finish(self) -> Sequence[Event]:
        """Return what was held back; a call that was cut off before its arguments is text."""
        call, held = self._call, self._held
        self._call, self._held = None, ""
        if call is not None:
            return [] if call.is_call else [Content(self._before + call.text)]
        is_empty = not held or (self._num_calls and not held.strip(_BETWEEN))
        return [] if is_empty else [Content(held)]

    def _step(self) -> list[Event] | None:
        if not self._held:
            return None
        if self._is_text:
            text, self._held = self._held, ""
            return [Content(text)]
        if self._call is not None:
            return self._read(self._call)
        start = self._place() if not self._num_calls else self._next_place()
        if start is None:
            return None
        if self._held[start : start + 1] != "{":
            self._is_text = True
            return []
        self._before, self._held = self._held[:start], self._held[start:]
        self._call = JsonCall(self._num_calls, needs_arguments=True)
        return []

    def _place(self) -> int | None:
        """Return where the first call or other text begins; None while that may change."""
        start = self._held.lstrip()
        if any(mark.startswith(start) for mark in MARKS):
            return None
        mark = next((mark for mark in MARKS if start.startswith(mark)), "")
        start = start.removeprefix(mark).lstrip()
        start = start.removeprefix("[").lstrip()
        return len(self._held) - len(start) if start else None

    def _next_place(self) -> int | None:
        start = self._held.lstrip(_BETWEEN)
        return len(self._held) - len(start) if start else None

    def _read(self, call: JsonCall) -> list[Event]:
        events = call.take(self._held)
        self._held = call.rest
        if call.is_open:
            return events
        self._call = None
        if call.is_call:
            self._num_calls += 1
            return events
        self._is_text = True
        return [Content(self._before + call.text)]
