"""Tool calls of DeepSeek.

V3 and R1 write `BEGIN function SEPARATOR name`, a line break and the arguments in a block of code (```json).
V3.1 writes `BEGIN name SEPARATOR {...} END`. Marks around all calls together are left out.
"""

import re

from router.edge.openai.parsing.events import CallArguments, CallStart, Event, make_call_id
from router.edge.openai.parsing.json_value import ValueScanner
from router.edge.openai.parsing.marked_calls import CallMarks, MarkedCalls

BEGIN, END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
AROUND = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
MARKS = CallMarks(BEGIN, END, leftover=" \t\r\n}`", around=AROUND)
_V3 = "function"  # the only type of tool, in place of the name
_MAX_HEAD = 512  # letters before the arguments
_HEAD = re.compile(rf"\s*([^\s<]+)\s*{SEPARATOR}\s*([^\s`<]+)?\s*(?:```\w*)?\s*(?:```\s*)?")


class DeepSeekCalls(MarkedCalls):
    """Finds such calls in a text."""

    def __init__(self) -> None:
        super().__init__(MARKS, DeepSeekCall)


class DeepSeekCall:
    """Reads one call: its head until the arguments are there, and then them as they come."""

    def __init__(self, number: int) -> None:
        """`number` is the call's place in the answer."""
        self._number = number
        self._scanner = ValueScanner()
        self.text = ""
        self.rest = ""
        self.is_open = True
        self.is_call = False

    def take(self, text: str) -> list[Event]:
        """Take more text up to the end of the arguments, or to what cannot be a call."""
        if self.is_call:
            return self._arguments(text)
        self.text, self.rest = self.text + text, ""
        places = [at for mark in ("{", END) if (at := self.text.find(mark)) >= 0]
        is_decided = bool(places) or len(self.text) >= _MAX_HEAD + len(END)
        return self._begin(min([*places, _MAX_HEAD])) if is_decided else []

    def _begin(self, length: int) -> list[Event]:
        """Begin the call, if what stands before its arguments is the head of one."""
        text, self.text = self.text, self.text[:length]
        head = _HEAD.fullmatch(self.text) if length < _MAX_HEAD else None
        if head is None or (head[2] and head[1] != _V3):
            self.is_open, self.rest = False, text[length:]
            return []
        self.is_call = True
        start = CallStart(self._number, make_call_id(), head[2] or head[1])
        return [start, *self._arguments(text[length:])]

    def _arguments(self, text: str) -> list[Event]:
        if text.startswith(END):  # right behind the head: there are none
            self.is_open, self.rest = False, text
            return [CallArguments(self._number, "{}")]
        length, is_closed = self._scanner.take(text)
        self.is_open, self.rest = not is_closed, text[length:]
        return [CallArguments(self._number, text[:length])] if length else []
