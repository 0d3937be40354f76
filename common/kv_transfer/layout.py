"""Shape of KV on the wire."""

from dataclasses import dataclass
from typing import Final

WIRE_VERSION: Final = (
    2  # of headers and payloads; one more with each change that the other side must know
)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shape of KV that both sides must share, and the fingerprint of the weights that made it."""

    fingerprint: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    bytes_per_element: int
    vocab_size: int
    state_bytes: int = 0  # of one sequence in a model that has state; ships behind the last chunk
    state_dtypes: str = ""

    def num_bytes(self, num_tokens: int) -> int:
        """Return the size of the payload for `num_tokens` positions, in bytes."""
        per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim
        return per_token * self.bytes_per_element * num_tokens

    def shape(self, num_tokens: int) -> tuple[int, int, int, int, int]:
        """Return [layers, 2, num_tokens, kv_heads, head_dim], the payload's shape."""
        return (self.num_layers, 2, num_tokens, self.num_kv_heads, self.head_dim)

    @property
    def key(self) -> tuple[int, int, int, int]:
        """The part that a chunk's header states: layers, kv_heads, head_dim, bytes per element."""
        return (self.num_layers, self.num_kv_heads, self.head_dim, self.bytes_per_element)
