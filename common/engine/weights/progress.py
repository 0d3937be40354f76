"""Progress of slow work, which the command line draws; the library itself never prints."""

from typing import Protocol


class Progress(Protocol):
    """Receiver of the stages of one task, in order, never from two threads at once."""

    def stage(self, name: str, total: int | None) -> None:
        """Note that a stage begins and the one before it has ended.

        `total` is in the units of `advance`; None: nobody knows how long it takes.
        """

    def advance(self, amount: int) -> None:
        """Note that the stage moved on by `amount` bytes or steps."""


class NoProgress:
    """Progress for callers that show nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, amount: int) -> None:
        """Do nothing."""
