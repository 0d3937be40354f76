"""Which workers serve a request. Plain numbers in, names out; no sockets, no clocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could take the request now."""

    name: str
    num_sequences: int
    num_waiting_tokens: int
    blocks_free: int


@dataclass(frozen=True, slots=True)
class Route:
    """The choice. Without `prefill` the decode worker runs the prompt itself."""

    decode: str
    prefill: str | None = None


class RoutingPolicy(Protocol):
    """Chooses one worker of each role."""

    def choose(
        self, prefill: Sequence[Candidate], decode: Sequence[Candidate], num_prompt_tokens: int
    ) -> Route | None:
        """The route, or None when no decode worker is there."""


class LeastLoaded:
    """The prefill worker with the fewest tokens to run, the decode worker with the fewest sequences."""

    def choose(
        self, prefill: Sequence[Candidate], decode: Sequence[Candidate], num_prompt_tokens: int
    ) -> Route | None:
        """See RoutingPolicy.choose."""
        if not decode:
            return None
        target = min(decode, key=lambda c: (c.num_sequences, -c.blocks_free, c.name))
        source = min(prefill, key=lambda c: (c.num_waiting_tokens, c.name), default=None)
        return Route(target.name, source.name if source else None)
