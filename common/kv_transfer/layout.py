"""Shape of KV on the wire."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

WIRE_VERSION: Final = (
    3  # of headers and payloads; one more with each change that the other side must know
)

Run = tuple[
    int, int, int, int
]  # layers alike, one after the other; KV heads, key and value channels


class KVShape(NamedTuple):
    """Shape of one layer's keys and values at one position."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def held(self) -> tuple[int, int]:
        """Channels of a key and of a value that blocks hold, and payloads."""
        return self.key_dim, self.value_dim

    @property
    def num_held(self) -> int:
        """Count the numbers of a position in blocks, and in payloads."""
        return self.num_kv_heads * sum(self.held)


class LatentShape(KVShape):
    """Shape of latents: a value is the first channels of its key, so keys alone are held."""

    __slots__ = ()

    @property
    def held(self) -> tuple[int, int]:
        """Channels of a key, and none of a value."""
        return self.key_dim, 0


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shape of KV that both sides must share, and the fingerprint of the weights that made it.

    A payload holds one layer after the other: its keys [tokens, kv_heads, key_dim], then its values
    [tokens, kv_heads, value_dim] unless its keys hold them (LatentShape). Where all are alike, that is
    [layers, 2, tokens, kv_heads, head_dim]. With the dtypes "int8" and "fp8" shapes count words
    (quantized.py).
    """

    fingerprint: str
    shapes: tuple[KVShape, ...]  # of each layer that has keys and values of its own
    dtype: str
    bytes_per_element: int
    vocab_size: int
    state_bytes: int = 0  # of one sequence in a model that has state; ships behind the last chunk
    state_dtypes: str = ""
    numbers_per_token: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sum up once what every step asks for."""
        object.__setattr__(self, "numbers_per_token", count_numbers(self.shapes))

    def num_bytes(self, num_tokens: int) -> int:
        """Return the size of the payload for `num_tokens` positions, in bytes."""
        return self.numbers_per_token * self.bytes_per_element * num_tokens

    def shape(self, num_tokens: int) -> tuple[int, ...]:
        """Return the shape of the payload's tensor.

        [layers, 2, num_tokens, kv_heads, head_dim] where all layers, keys and values are alike. Elsewhere
        [n], all numbers in a row.
        """
        alike = shape_of_all(self.shapes)
        if alike is None:
            return (self.numbers_per_token * num_tokens,)
        return (len(self.shapes), 2, num_tokens, alike.num_kv_heads, alike.key_dim)

    @property
    def key(self) -> tuple[int, tuple[Run, ...]]:
        """The part that a chunk's header states: bytes per element, and the runs of layers alike."""
        runs = groupby(self.shapes)
        return self.bytes_per_element, tuple(
            (len(list(same)), shape.num_kv_heads, *shape.held) for shape, same in runs
        )


def count_numbers(shapes: Iterable[KVShape]) -> int:
    """Count the numbers that blocks and payloads hold of one position, in layers of these shapes."""
    return sum(shape.num_held for shape in shapes)


def shape_of_all(shapes: tuple[KVShape, ...]) -> KVShape | None:
    """Return the shape of every layer; None where layers, or what is held of keys and values, differ."""
    first, *others = set(shapes)
    key_dim, value_dim = first.held
    return None if others or key_dim != value_dim else first
