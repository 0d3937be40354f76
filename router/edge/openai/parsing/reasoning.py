"""Reasoning between <think> and </think> (DeepSeek-R1, Qwen3, SmolLM3 and others)."""

from collections.abc import Sequence

from router.edge.openai.parsing.events import Event, Parser, Reasoning, take_steps
from router.edge.openai.parsing.marks import held_back

OPEN, CLOSE = "<think>", "</think>"


class ReasoningParser:
    """Splits off what the model thinks, and gives the rest to another parser.

    Blank lines around the thoughts belong to neither.
    """

    def __init__(self, rest: Parser, *, is_inside: bool) -> None:
        """`is_inside`: the prompt ends with <think>, so the answer begins with thoughts."""
        self._rest = rest
        self._is_inside = is_inside
        self._is_start = True  # nothing but blanks so far
        self._held = ""

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        self._held += text
        return take_steps(self._step)

    def finish(self) -> Sequence[Event]:
        """Return what was held back."""
        held, self._held = self._held, ""
        inside = [Reasoning(held)] if held and self._is_inside else []
        outside = [] if self._is_inside else self._rest.push(held)
        return [*inside, *outside, *self._rest.finish()]

    def _step(self) -> list[Event] | None:
        """Take one piece off what is held; None where it must grow first."""
        if self._is_start:
            self._held = self._held.lstrip()
            if not self._held:
                return None
        if self._is_inside:
            return self._inside()
        return self._outside()

    def _inside(self) -> list[Event] | None:
        text, mark, after = self._held.partition(CLOSE)
        if mark:
            self._is_inside, self._is_start, self._held = False, True, after
            text = text.rstrip()
            return [Reasoning(text)] if text else []
        certain = self._held[: len(self._held) - held_back(self._held, CLOSE)]
        return self._take(len(certain.rstrip()))

    def _take(self, length: int) -> list[Event] | None:
        text, self._held = self._held[:length], self._held[length:]
        if not text:
            return None
        self._is_start = False
        return [Reasoning(text)] if self._is_inside else list(self._rest.push(text))

    def _outside(self) -> list[Event] | None:
        if self._is_start and self._held.startswith(OPEN):
            self._is_inside, self._held = True, self._held.removeprefix(OPEN)
            return []
        if self._is_start and OPEN.startswith(self._held):
            return None
        return self._take(len(self._held))
