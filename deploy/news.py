"""Reports of a supervisor to routers: the membership, and events for their logs. Plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from common.telemetry.logs import get_logger
from router.workers.membership import Membership

Level = Literal["info", "warning", "error"]
Tell = Callable[["Event"], None]


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log."""

    level: Level
    name: str
    fields: tuple[tuple[str, str | float], ...]

    def log(self) -> None:
        """Write the line to the log of this process."""
        getattr(get_logger(), self.level)(self.name, **dict(self.fields))


@dataclass(frozen=True, slots=True)
class News:
    """The membership, and the events since the caller's last question."""

    membership: Membership = field(default_factory=Membership)
    events: tuple[Event, ...] = ()
    num_events: int = 0  # in all so far; the next question tells it


def make_event(level: Level, name: str, **fields: str | float) -> Event:
    """Return an event with these fields."""
    return Event(level, name, tuple(fields.items()))
