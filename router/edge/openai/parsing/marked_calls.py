"""Tool calls between marks: text, and calls that each begin and end with one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.edge.openai.parsing.events import Content, Event, take_steps
from router.edge.openai.parsing.marks import split_at


class CallReader(Protocol):
    """Reads one call. `text` is what it took until the call began, `rest` what it did not take."""

    is_open: bool
    is_call: bool
    rest: str

    @property
    def text(self) -> str:
        """Return what was taken before the call began."""
        ...

    def take(self, text: str) -> list[Event]:
        """Take more text."""
        ...


@dataclass(frozen=True, slots=True)
class CallMarks:
    """Marks of a family, and the letters that may stand between a call's arguments and its end."""

    begin: str
    end: str
    leftover: str
    around: tuple[str, ...] = ()  # of all calls together


class MarkedCalls:
    """Finds calls in a text. What is marked as one and is none stays text.

    Blanks alone before and between calls are no text.
    """

    def __init__(self, marks: CallMarks, make_call: Callable[[int], CallReader]) -> None:
        """`make_call` returns the reader of the call with a number."""
        self._marks = marks
        self._make_call = make_call
        self._held = ""
        self._call: CallReader | None = None
        self._before = ""  # blanks before the open call
        self._is_behind = False  # a call was read, its end mark is awaited
        self._has_text = False  # since the start or the last call
        self._num_calls = 0

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        self._held += text
        return take_steps(self._step)

    def finish(self) -> Sequence[Event]:
        """Return what was held back; a call that was cut off before its arguments is text."""
        call, held = self._call, self._held
        self._call, self._held = None, ""
        if call is not None:
            return [] if call.is_call else self._not_a_call(call)
        if self._is_behind and self._marks.end.startswith(held.lstrip(self._marks.leftover)):
            return []
        return self._text(held)

    def _step(self) -> list[Event] | None:
        if self._call is not None:
            return self._read(self._call) if self._held else None
        marks = self._marks
        wanted = (marks.begin, *marks.around, *((marks.end,) if self._is_behind else ()))
        before, mark, after = split_at(self._held, wanted)
        events = self._text(before)
        if mark is None and not events:
            return None
        self._held = after
        if mark == marks.begin:
            self._call = self._make_call(self._num_calls)
            self._before = "" if events else before
        if mark is not None:
            self._is_behind = False
        return events

    def _read(self, call: CallReader) -> list[Event]:
        events = call.take(self._held)
        self._held = call.rest
        if call.is_open:
            return events
        self._call = None
        if not call.is_call:
            return self._not_a_call(call)
        self._num_calls += 1
        self._is_behind, self._has_text = True, False
        return events

    def _not_a_call(self, call: CallReader) -> list[Event]:
        return self._text(self._before + self._marks.begin + call.text)

    def _text(self, text: str) -> list[Event]:
        blanks = self._marks.leftover if self._is_behind else " \t\r\n"
        self._has_text = self._has_text or bool(text.strip(blanks))
        return [Content(text)] if text and self._has_text else []
