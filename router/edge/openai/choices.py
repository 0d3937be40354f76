"""The choices of one answer, for whichever endpoint made it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from router.edge.openai.answers import Json
from router.journey.progress import Delta


class Shown(Protocol):
    """A piece of a choice."""

    def to_json(self) -> Json:
        """Return the choice of a chunk."""
        ...


_Piece = TypeVar("_Piece", bound=Shown)


class Choices(Generic[_Piece]):
    """Turns the deltas of an answer's choices into chunks, or keeps them for a whole answer."""

    def __init__(
        self,
        takes: Sequence[Callable[[Delta], Iterator[_Piece]]],
        join: Callable[[Iterable[_Piece], int], list[Json]],
    ) -> None:
        """`takes` has a function a choice; `join` makes whole choices of all pieces."""
        self._takes = takes
        self._join = join
        self._kept: list[_Piece] = []

    def stream(self, choice: int, delta: Delta) -> Iterator[Json]:
        """Yield the chunks' choices that a delta makes."""
        for piece in self._takes[choice](delta):
            yield piece.to_json()

    def keep(self, choice: int, delta: Delta) -> None:
        """Take a delta of an answer that is sent at once."""
        self._kept += self._takes[choice](delta)

    def whole(self) -> list[Json]:
        """Return the choices of that answer."""
        return self._join(self._kept, len(self._takes))
