"""Tool calls that a grammar forces: a JSON list of `{"name": ..., "arguments": ...}`, streamed as it grows.

The grammar (tools.forced_schema) fixes the order of the keys, so a small scanner is enough: it finds a name,
then passes the arguments on letter by letter until their value is closed.
"""

import json
import re
from collections.abc import Sequence

from router.edge.openai.parsing.events import CallArguments, CallStart, Event, make_call_id

_START = re.compile(
    r'\s*[\[,]?\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)'
)


class ForcedCalls:
    """Reads such a list. There is no text besides."""

    def __init__(self) -> None:
        self._held = ""
        self._num_calls = 0
        self._scanner: _ValueScanner | None = None

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        self._held += text
        events: list[Event] = []
        while (found := self._step()) is not None:
            events += found
        return events

    def finish(self) -> Sequence[Event]:
        """Return nothing: a name that was cut off is no call."""
        return []

    def _step(self) -> list[Event] | None:
        if self._scanner is None:
            return self._begin()
        taken, is_closed = self._scanner.take(self._held)
        if not taken and not is_closed:
            return None
        text, self._held = self._held[:taken], self._held[taken:]
        if is_closed:
            self._scanner = None
            self._num_calls += 1
            self._held = self._held.lstrip().removeprefix("}")
        number = self._num_calls - is_closed
        return [CallArguments(number, text)] if text else []

    def _begin(self) -> list[Event] | None:
        match = _START.match(self._held.removeprefix("}"))
        if match is None:
            return None
        self._held = self._held.removeprefix("}")[match.end() :]
        self._scanner = _ValueScanner()
        return [CallStart(self._num_calls, make_call_id(), json.loads(match[1]))]


class _ValueScanner:
    """Finds the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = self._is_escaped = False

    def take(self, text: str) -> tuple[int, bool]:
        """Return how many letters belong to the object, and whether it ends with them."""
        for at, letter in enumerate(text):
            if self._is_string:
                self._is_string = self._is_escaped or letter != '"'
                self._is_escaped = not self._is_escaped and letter == "\\"
            elif letter == '"':
                self._is_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    return at + 1, True
        return len(text), False
