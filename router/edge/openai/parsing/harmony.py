"""Answers of GPT-OSS, in OpenAI's harmony format: messages in channels.

A message is `START role CHANNEL channel MESSAGE text END`. The prompt ends with the first START and role.

1. Text of the channel `analysis` is reasoning; of `final`, and of `commentary`, it is for the user.
2. A header with `to=functions.NAME` makes the text the arguments of a call, whichever channel it names.
3. END, CALL or RETURN end a message. A model that forgets them begins the next with START or CHANNEL.

The package `openai-harmony` fetches its vocabulary from the network at run time, so it is not used.
"""

import re
from collections.abc import Sequence
from typing import Literal

from router.edge.openai.parsing.events import (
    CallArguments,
    CallStart,
    Content,
    Event,
    Reasoning,
    make_call_id,
    take_steps,
)
from router.edge.openai.parsing.marks import split_at

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
MARKS = (START, CHANNEL, MESSAGE, END, CALL, RETURN, "<|constrain|>")
_ENDS = (END, CALL, RETURN, START, CHANNEL)
_MAX_HEADER = 512  # characters; an answer with more of them has no headers
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")
_ANALYSIS = re.compile(re.escape(CHANNEL) + r"\s*analysis\b")

Kind = Literal["content", "reasoning", "call"]


class HarmonyParser:
    """Reads the messages of an answer. Two messages of one kind are a line apart."""

    def __init__(self, prompt: str, *, has_tools: bool) -> None:
        """`prompt` is the rendered chat, which may end within a message's header or its text."""
        at = prompt.rfind(START)
        is_open = at >= 0 and not any(mark in prompt[at:] for mark in (END, CALL, RETURN))
        self._header = prompt[at:] if is_open else ""  # passed of the next message's
        self._has_tools = has_tools
        self._kind: Kind | None = None  # of the open message
        self._held = ""
        self._seen: set[Kind] = set()
        self._is_new = False  # nothing of the open message has come
        self._num_calls = 0
        if MESSAGE in self._header:
            self._kind = "reasoning" if _ANALYSIS.search(self._header) else "content"

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        self._held += text
        return take_steps(self._step)

    def finish(self) -> Sequence[Event]:
        """Return what was held back, but for a header that was cut off."""
        held, self._held = self._held, ""
        if self._kind is None:
            is_text = held and not held.isspace() and not split_at(held, MARKS).mark
            return [Content(held)] if is_text else []
        # within a call, only a mark that was cut off is held
        return [] if self._kind == "call" else self._text(held)

    def _step(self) -> list[Event] | None:
        return self._read_header() if self._kind is None else self._read_text(self._kind)

    def _read_header(self) -> list[Event] | None:
        at = self._held.find(MESSAGE, 0, _MAX_HEADER + len(MESSAGE))
        if at >= 0:
            header = self._header + self._held[:at]
            self._held = self._held[at + len(MESSAGE) :]
            return self._begin(header)
        if len(self._held) < _MAX_HEADER + len(MESSAGE):
            return None
        self._kind, self._header, self._is_new = "content", "", True
        return []

    def _begin(self, header: str) -> list[Event]:
        self._header, self._is_new = "", True
        recipient = _RECIPIENT.search(header)
        if recipient is not None and self._has_tools:
            self._kind = "call"
            self._num_calls += 1
            return [CallStart(self._num_calls - 1, make_call_id(), recipient[1])]
        self._kind = "reasoning" if _ANALYSIS.search(header) else "content"
        return []

    def _read_text(self, kind: Kind) -> list[Event] | None:
        text, mark, after = split_at(self._held, _ENDS)
        if mark is None and not text:
            return None
        self._held = after
        events = self._text(text)
        if mark is None:
            return events
        if kind == "call" and self._is_new:
            events = [CallArguments(self._num_calls - 1, "{}")]
        self._kind, self._header = None, mark if mark in (START, CHANNEL) else ""
        return events

    def _text(self, text: str) -> list[Event]:
        if not text:
            return []
        if self._kind == "call":
            self._is_new = False
            return [CallArguments(self._num_calls - 1, text)]
        kind: Kind = self._kind or "content"
        text = "\n" + text if self._is_new and kind in self._seen else text
        self._is_new = False
        self._seen.add(kind)
        return [Reasoning(text) if kind == "reasoning" else Content(text)]
