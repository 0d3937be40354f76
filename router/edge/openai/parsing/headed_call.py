"""One tool call as a head with its name, and then its arguments as a JSON object, read as it comes."""

from collections.abc import Callable

from router.edge.openai.parsing.events import CallArguments, CallStart, Event, make_call_id
from router.edge.openai.parsing.json_value import ValueScanner

_MAX_HEAD = 512  # letters before the arguments


class HeadedCall:
    """Reads one call: its head until the arguments are there, and then them as they come."""

    def __init__(self, number: int, find_name: Callable[[str], str | None], end: str) -> None:
        """`number` is the call's place in the answer, `end` the mark behind it.

        `find_name` returns the name in a head; None for what is no head.
        """
        self._number = number
        self._find_name = find_name
        self._end = end
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
        places = [at for mark in ("{", self._end) if (at := self.text.find(mark)) >= 0]
        is_decided = bool(places) or len(self.text) >= _MAX_HEAD + len(self._end)
        return self._begin(min([*places, _MAX_HEAD])) if is_decided else []

    def _begin(self, length: int) -> list[Event]:
        """Begin the call, if what stands before its arguments is the head of one."""
        text, self.text = self.text, self.text[:length]
        name = self._find_name(self.text) if length < _MAX_HEAD else None
        if name is None:
            self.is_open, self.rest = False, text[length:]
            return []
        self.is_call = True
        start = CallStart(self._number, make_call_id(), name)
        return [start, *self._arguments(text[length:])]

    def _arguments(self, text: str) -> list[Event]:
        if text.startswith(self._end):  # right behind the head: there are none
            self.is_open, self.rest = False, text
            return [CallArguments(self._number, "{}")]
        length, is_closed = self._scanner.take(text)
        self.is_open, self.rest = not is_closed, text[length:]
        return [CallArguments(self._number, text[:length])] if length else []
