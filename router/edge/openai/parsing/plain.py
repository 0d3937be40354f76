"""Answers without any marks."""

from collections.abc import Sequence

from router.edge.openai.parsing.events import Content, Event


class PlainText:
    """A parser for which all is content."""

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        return [Content(text)] if text else []

    def finish(self) -> Sequence[Event]:
        """Return nothing: nothing is held back."""
        return []
