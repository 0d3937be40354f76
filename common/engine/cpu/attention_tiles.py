"""Tiles of attention work items, as parts: rows meet TILE positions at a time.

A context is cut into segments, always at the same positions. Rows walk over a segment with the running
maximum and sum of FlashAttention's online softmax (Dao et al. 2022). What segments give is merged in their
order, as Flash-Decoding does (Dao et al. 2023). So it does not matter who computed a segment.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.engine.cpu import scores, softmax
from common.engine.cpu import vector as vec
from common.engine.cpu.jit import part
from common.engine.cpu.latent_tiles import Block, turn_function
from common.engine.cpu.score_extras import row_functions
from common.engine.cpu.softmax import TILE
from common.engine.cpu.target import host_target

MAX_ROWS = host_target().attention_rows
# positions; a prompt of 2,000 tokens took 1.07 x the time with 128
SEGMENT = 8 * TILE
# rows whose weighted values are summed at a time: those first that load least for a product
_VALUE_ROWS = 4, 5, 3, 7, 2, 1

Jitable = Callable[..., None]


class RowTile(NamedTuple):
    """Rows that are scored at a time, and if the memory is asked for the tile of positions that follows."""

    rows: int
    asks_ahead: bool


class Shape(NamedTuple):
    """Shape that kernels of attention are compiled for."""

    block: Block
    storage: str  # numpy name of the blocks' dtype
    has_extras: bool

    @property
    def of_decode(self) -> RowTile:
        """Rows of a query alone. Its step reads each block once, from memory; the CPU cannot guess which."""
        group = self.block.group
        rows = next(n for n in range(min(group, MAX_ROWS), 0, -1) if group % n == 0)
        return RowTile(rows, asks_ahead=True)

    @property
    def of_chunk(self) -> RowTile:
        """Rows of a chunk's queries, which share the blocks they read."""
        rows = self.of_decode.rows
        return RowTile(rows * (MAX_ROWS // rows), asks_ahead=False)

    def score_parts(self) -> int:
        """Return in how many parts a score is summed.

        Decode steps have few rows to fill the registers with, and chunks follow them.
        """
        words = self.block.key_dim * np.dtype(self.storage).itemsize // 4
        return scores.num_score_parts(self.of_decode.rows, words)


def segment_function(shape: Shape, tile: RowTile) -> Jitable:
    """Make the function for the tiles of a segment, so many rows of a work item at a time."""
    attend_tile, rows = _tile_function(shape, tile), tile.rows
    _, window_of = row_functions(shape.block.group, has_extras=shape.has_extras)
    turn_keys, is_latent = turn_function(shape.block), shape.block.is_latent

    # the tile that follows is that of `next_head` from `next_key`
    @part(variant=f"{shape}-{tile}", allocates=False)
    def run_segment(  # type: ignore[no-untyped-def]
        q, padded, first, end, limits, form, keys, values, head, table, next_head, next_key, scale,
        acc, peak, norm, s, p,
    ):  # fmt: skip
        for first_key in range(first, end, TILE):
            if is_latent:
                turn_keys(keys, table, first_key, limits[padded - 1], head, values)
            ahead_head, ahead_key = head, first_key + TILE
            if ahead_key >= end:
                ahead_head, ahead_key = next_head, next_key
            for r in range(0, padded, rows):
                # windows never begin earlier from row to row
                begins = limits[r] - window_of(form, r)
                if begins < first_key + TILE and limits[r + rows - 1] > first_key:
                    attend_tile(
                        q, r, first_key, limits, form, keys, values, head, table,
                        ahead_head, ahead_key, scale, acc, peak, norm, s, p,
                    )  # fmt: skip

    return run_segment


def _tile_function(shape: Shape, tile: RowTile) -> Jitable:
    """Make the function for a tile's rows from row r against the TILE positions from `first_key`."""
    rows, asks_ahead = tile
    value_rows = next(n for n in _VALUE_ROWS if rows % n == 0)
    block, parts = shape.block, shape.score_parts()
    block_size, head_dim, value_dim, *_ = block
    k_block, v_block = block.of_keys, block.of_values
    is_latent = block.is_latent
    key_ahead = _ahead_function(block_size, k_block, is_wanted=asks_ahead)
    value_ahead = _ahead_function(block_size, v_block, is_wanted=asks_ahead and not is_latent)

    @part(variant=f"{shape}-{tile}")
    def attend_tile(  # type: ignore[no-untyped-def]
        q, r, first_key, limits, form, keys, values, head, table, next_head, next_key, scale,
        acc, peak, norm, s, p,
    ):  # fmt: skip
        kv_heads = keys.shape[1]
        seen = min(limits[r + rows - 1] - first_key, TILE)  # limits never fall from row to row
        first, behind = first_key // block_size, limits[r + rows - 1]
        for b in range((seen + block_size - 1) // block_size):
            at = (np.int64(table[first + b]) * kv_heads + head) * k_block
            ahead = key_ahead(table, next_key, b, behind, kv_heads, next_head)
            scores.score_block(
                q, r * head_dim, keys, at, ahead, scale, s, b * block_size,
                rows, head_dim, block_size, parts,
            )  # fmt: skip
        softmax.softmax_rows(s, limits, r, first_key, form, p, acc, peak, norm, rows, value_dim)
        for b in range((seen + block_size - 1) // block_size):
            at = (b if is_latent else np.int64(table[first + b]) * kv_heads + head) * v_block
            ahead = value_ahead(table, next_key, b, behind, kv_heads, next_head)
            count = min(seen - b * block_size, block_size)
            for i in range(0, rows, value_rows):
                vec.accumulate_block(
                    p, i * TILE + b * block_size, values, at, ahead, count,
                    acc, (r + i) * value_dim, value_rows, value_dim,
                )  # fmt: skip

    return attend_tile


def _ahead_function(block_size: int, numbers: int, *, is_wanted: bool) -> Jitable:
    """Make the function that finds block `b` behind `first_key`, or the last one of `context` positions."""
    if not is_wanted:
        return _no_offset

    @part(variant=f"{block_size}-{numbers}", allocates=False)
    def offset_of(table, first_key, b, context, kv_heads, head):  # type: ignore[no-untyped-def]
        block = np.int64(table[min(first_key // block_size + b, (context - 1) // block_size)])
        return (block * kv_heads + head) * numbers

    return offset_of


@part(allocates=False)
def _no_offset(table, first_key, b, context, kv_heads, head):  # type: ignore[no-untyped-def]
    return None
