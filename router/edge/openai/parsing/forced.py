"""Tool calls that a grammar forces: a JSON list of `{"name": ..., "arguments": ...}` and nothing else."""

from collections.abc import Iterable, Sequence

from router.edge.openai.parsing.events import Content, Event
from router.edge.openai.parsing.json_calls import JsonCalls


class ForcedCalls:
    """Reads such a list. There is no text besides: a name that was cut off is no call."""

    def __init__(self) -> None:
        self._calls = JsonCalls()

    def push(self, text: str) -> Sequence[Event]:
        """Take more text."""
        return _without_text(self._calls.push(text))

    def finish(self) -> Sequence[Event]:
        """Return nothing of what was cut off."""
        return _without_text(self._calls.finish())


def _without_text(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Content)]
