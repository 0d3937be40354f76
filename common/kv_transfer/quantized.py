"""Form of keys and values in 8 bits, in blocks and on the wire.

A head's numbers x of one position become levels of 8 bits, x / scale rounded to nearest, ties to even, with
scale = max |x| / the largest level. They fill words of 4 bytes, and the last word is the scale, a float32.
Levels are integers up to 127 ("int8"), or floats of 4 bits of exponent up to 448 ("fp8": E4M3 of Micikevicius
et al. 2022, without infinities).
"""

from typing import Final

from common.kv_transfer.layout import KVShape

LEVELS_OF_WORD: Final = 4
SCALE_PER_SIZE: Final = 1 / 127
SCALE_PER_SIZE_FP8: Final = 1 / 448
# a head of no larger numbers is stored as zeros: divided by a smaller scale they would overflow
SMALLEST_SCALE: Final = 1e-35


def in_words(shape: KVShape) -> KVShape:
    """Return the shape of quantized keys and values, counted in words."""
    dims = (-(-dim // LEVELS_OF_WORD) + 1 for dim in (shape.key_dim, shape.value_dim))
    return KVShape(shape.num_kv_heads, *dims)
