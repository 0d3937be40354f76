"""Events that the text of an answer turns out to be, piece by piece."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text in which the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; its arguments follow."""

    number: int  # of this answer's calls, from 0
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments, which are JSON text."""

    number: int
    text: str


Event = Content | Reasoning | CallStart | CallArguments


class Parser(Protocol):
    """Takes an answer's text as it comes. All events of all pieces make the whole answer."""

    def push(self, text: str) -> Sequence[Event]:
        """Take more text; returns what has become certain."""
        ...

    def finish(self) -> Sequence[Event]:
        """Return what is left at the end. A call that has not begun by then is text."""
        ...


def take_steps(step: Callable[[], list[Event] | None]) -> list[Event]:
    """Return the events of all steps until one returns None, as it needs more text."""
    events: list[Event] = []
    while (found := step()) is not None:
        events += found
    return events


def make_call_id() -> str:
    """Return an id for a call, of the form that OpenAI's have."""
    return f"call_{secrets.token_hex(12)}"
