"""What slow work reports, so that the command line can draw it; the library itself never prints."""

from typing import Protocol


class Progress(Protocol):
    """Told about the stages of one task, in order, never from two threads at once."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins and the one before it has ended. `total` is in the units of `advance`;
        None: nobody knows how long it takes."""

    def advance(self, amount: int) -> None:
        """The stage moved on by `amount` bytes or steps."""


class NoProgress:
    """For callers that show nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignored."""

    def advance(self, amount: int) -> None:
        """Ignored."""
