"""Values of a tile of latents, in the making of attention kernels: its keys, transposed once for all rows.

Blocks hold a latent as a key alone, in lanes of positions. Values are read in lanes of channels. So before
the rows of a work item meet a tile of positions, the first channels of its keys are transposed into memory
that the thread keeps. Where values have blocks of their own, nothing of this is compiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.jit import part
from common.engine.cpu.packed import pack_of
from common.engine.cpu.panel import transposed
from common.engine.cpu.softmax import TILE

Jitable = Callable[..., Any]


class Block(NamedTuple):
    """Shape of a block that kernels are compiled for."""

    size: int  # positions
    key_dim: int
    value_dim: int
    group: int  # queries of a KV head
    tail: int  # elements behind a position's channels
    is_latent: bool  # a value is the first channels of its key, and has no memory of its own

    @property
    def of_keys(self) -> int:
        """Elements of a head's keys."""
        return self.size * (self.key_dim + self.tail)

    @property
    def of_values(self) -> int:
        """Elements of a head's values."""
        return self.size * (self.value_dim + self.tail)


def values_function(block: Block, storage: str) -> Jitable:
    """Make the function that returns where values are read: of latents, memory for those of a tile."""
    if not block.is_latent:
        return _values_themselves
    kind, count = np.dtype(storage), TILE * block.value_dim

    @part(variant=f"{block}-{storage}")
    def tile_of_values(values):  # type: ignore[no-untyped-def]
        return np.empty(count, kind)

    return tile_of_values


@part()
def _values_themselves(values):  # type: ignore[no-untyped-def]
    return values


def turn_function(block: Block) -> Jitable:
    """Make the function that fills `values` for the tile from `first_key`, of a sequence up to `end`."""
    size, value_dim, k_block, v_block = block.size, block.value_dim, block.of_keys, block.of_values

    @part(variant=f"{block}")
    def turn_keys(keys, table, first_key, end, head, values):  # type: ignore[no-untyped-def]
        # positions that nobody has written come along; nobody reads them
        first, kv_heads = first_key // size, keys.shape[1]
        for b in range((min(end - first_key, TILE) + size - 1) // size):
            at = (np.int64(table[first + b]) * kv_heads + head) * k_block
            turn_block(keys, at, values, b * v_block, size, value_dim)

    return turn_keys


@intrinsic(prefer_literal=True)
def turn_block(ctx, keys, k_at, values, v_at, size, dim):  # type: ignore[no-untyped-def]
    """values[size / pack, dim, pack] = the first `dim` channels of a block of keys [.. / pack, size, pack].

    Of pairs, those of two channels and two positions trade places first. Then a vector has the `pack`
    channels of some positions side by side, and vectors are transposed by runs of `pack` words.
    """
    pack, width, channels = pack_of(keys), emit.literal(size), emit.literal(dim)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        source, target = (emit.array_data(context, builder, sig, args, i) for i in (0, 2))
        with cgutils.for_range(builder, emit.index(channels // LANES)) as loop:
            k_at = emit.multiply_add(builder, loop.index, LANES * width, args[1])
            v_at = emit.multiply_add(builder, loop.index, LANES * pack, args[3])
            for v in range(0, width, LANES):
                spots = (
                    builder.add(k_at, emit.index((row * width + v) * pack))
                    for row in range(LANES // pack)
                )
                rows = [_load_words(builder, builder.gep(source, [at]), pack) for at in spots]
                for row, vector in enumerate(transposed(builder, rows, pack)):
                    at = builder.add(v_at, emit.index((v + row * pack) * channels))
                    pointer = builder.bitcast(builder.gep(target, [at]), emit.INTS.as_pointer())
                    builder.store(vector, pointer, align=2)
        return context.get_dummy_value()

    return types.void(keys, types.intp, values, types.intp, size, dim), generate


def _load_words(builder: Builder, pointer: Any, pack: int) -> Any:
    """Load a vector of words; of a pair's two channels and the next pair's make two pairs of positions."""
    words = emit.aligned_load(builder, pointer, emit.INTS, 2)
    if pack == 1:
        return words
    halves = builder.bitcast(words, ir.VectorType(ir.IntType(16), 2 * LANES))
    places = [i - i % 4 + (0, 2, 1, 3)[i % 4] for i in range(2 * LANES)]
    mask = ir.Constant(ir.VectorType(emit.I32, 2 * LANES), places)
    return builder.bitcast(builder.shuffle_vector(halves, halves, mask), emit.INTS)
