"""Marks in a text that comes in pieces."""

from collections.abc import Sequence
from typing import NamedTuple


class Split(NamedTuple):
    """A text, cut at a mark. Without one, `after` is the end that may still become a mark."""

    before: str
    mark: str | None
    after: str


def split_at(text: str, marks: Sequence[str]) -> Split:
    """Cut a text at the first of the marks that it holds."""
    places = [(text.find(mark), mark) for mark in marks]
    found = min(((at, mark) for at, mark in places if at >= 0), default=None)
    if found is not None:
        at, mark = found
        return Split(text[:at], mark, text[at + len(mark) :])
    safe = len(text) - max(held_back(text, mark) for mark in marks)
    return Split(text[:safe], None, text[safe:])


def held_back(text: str, mark: str) -> int:
    """Return the length of the longest end of a text with which a mark begins."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0
