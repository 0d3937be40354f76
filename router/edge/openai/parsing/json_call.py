"""One tool call as JSON: `{"name": ..., "arguments" or "parameters": ...}`, read as it comes."""

import json
from typing import Literal

from router.edge.openai.parsing.events import CallArguments, CallStart, Event, make_call_id
from router.edge.openai.parsing.json_value import ValueScanner

_ARGUMENTS = ("arguments", "parameters")


class JsonCall:
    """Reads a call and passes its arguments on.

    1. An object behind the name goes on piece by piece, as the model writes it.
    2. Other arguments, and those before the name, go on when both are whole.
    3. `text` is what was taken until the call began, for the case that it is none.
    4. `rest` is what was not taken, since the call ended before it.
    """

    def __init__(self, number: int, *, needs_arguments: bool = False) -> None:
        """`number` is the call's place in the answer; without arguments a call has `{}`."""
        self._number = number
        self._needs_arguments = needs_arguments
        self._taken: list[str] = []
        self._next: Literal["object", "key", "colon", "value", "comma"] = "object"
        self._scanner: ValueScanner | None = None
        self._is_streaming = False
        self._value: list[str] = []
        self._key = ""
        self._name = ""
        self._arguments: str | None = None
        self.rest = ""
        self.is_open = True
        self.is_call = False  # the call has begun

    @property
    def text(self) -> str:
        """Return what was taken before the call began."""
        return "".join(self._taken)

    def take(self, text: str) -> list[Event]:
        """Take more text up to the end of the call, or to what cannot be one."""
        self.rest = text
        events: list[Event] = []
        while self.rest and self.is_open:
            events += self._step() if self._scanner is None else self._scan(self._scanner)
        return events

    def _step(self) -> list[Event]:
        letter = self.rest[0]
        if letter in " \t\r\n":
            self._pass(len(self.rest) - len(self.rest.lstrip(" \t\r\n")))
            return []
        match self._next, letter:
            case ("key", '"') | ("value", _):
                return self._open_value(letter)
            case "object", "{":
                self._next = "key"
            case "colon", ":":
                self._next = "value"
            case "comma", ",":
                self._next = "key"
            case "key" | "comma", "}":
                self._pass(1)
                return self._end()
            case _:
                return self._break()
        self._pass(1)
        return []

    def _open_value(self, letter: str) -> list[Event]:
        self._scanner, self._value = ValueScanner(), []
        is_next = self._next == "value" and self._key in _ARGUMENTS and not self.is_call
        self._is_streaming = is_next and letter == "{" and bool(self._name)
        return self._begin() if self._is_streaming else []

    def _scan(self, scanner: ValueScanner) -> list[Event]:
        length, is_closed = scanner.take(self.rest)
        piece = self._pass(length)
        if not self._is_streaming:
            self._value.append(piece)
            return self._close("".join(self._value)) if is_closed else []
        if is_closed:
            self._scanner, self._next = None, "comma"
        return [CallArguments(self._number, piece)] if piece else []

    def _close(self, text: str) -> list[Event]:
        """Take a whole key or value."""
        self._scanner = None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self._break()
        if self._next == "key":
            self._key, self._next = value, "colon"
            return []
        self._next = "comma"
        if self._key == "name":
            self._name = value if isinstance(value, str) and value.isprintable() else ""
            if not self._name:
                return self._break()
        elif self._key in _ARGUMENTS:
            self._arguments = _as_arguments(value, text)
        return self._give()

    def _give(self) -> list[Event]:
        """Return the whole call once its name and arguments are known."""
        if self.is_call or not self._name or self._arguments is None:
            return []
        return [*self._begin(), CallArguments(self._number, self._arguments)]

    def _begin(self) -> list[Event]:
        self.is_call = True
        self._taken = []
        return [CallStart(self._number, make_call_id(), self._name)]

    def _end(self) -> list[Event]:
        self.is_open = False
        if self._arguments is None and not self._needs_arguments:
            self._arguments = "{}"
        return self._give()

    def _break(self) -> list[Event]:
        self.is_open = False
        return []

    def _pass(self, length: int) -> str:
        piece, self.rest = self.rest[:length], self.rest[length:]
        if not self.is_call:
            self._taken.append(piece)
        return piece


def _as_arguments(value: object, text: str) -> str:
    """Return arguments as JSON text: some models write them as a string, or null."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a half surrogate cannot be sent
    return "{}" if value is None else text
