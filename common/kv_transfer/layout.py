"""The shape of KV on the wire."""

from dataclasses import dataclass
from typing import Final

WIRE_VERSION: Final = 2  # of headers and payloads; counts up with each change that others must know


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape both sides must share, and whose weights made the numbers."""

    fingerprint: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    bytes_per_element: int
    vocab_size: int

    def num_bytes(self, num_tokens: int) -> int:
        """Size of the payload for `num_tokens` positions."""
        per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim
        return per_token * self.bytes_per_element * num_tokens

    def shape(self, num_tokens: int) -> tuple[int, int, int, int, int]:
        """Shape of the payload for `num_tokens` positions."""
        return (self.num_layers, 2, num_tokens, self.num_kv_heads, self.head_dim)

    @property
    def key(self) -> tuple[int, int, int, int]:
        """What a chunk's header states of it: layers, kv_heads, head_dim, bytes per element."""
        return (self.num_layers, self.num_kv_heads, self.head_dim, self.bytes_per_element)
