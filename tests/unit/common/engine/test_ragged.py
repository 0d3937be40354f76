import numpy as np
import pytest

from common.engine.batch import Batch, BatchEntry
from common.engine.ragged import RaggedInputs
from common.engine.sequence import Sequence
from tests.unit.common.engine.sequences import make_decoding, make_sequence

BLOCK_SIZE = 4


def ragged(*entries: tuple[Sequence, int]) -> RaggedInputs:
    return RaggedInputs.from_batch(Batch(tuple(BatchEntry(*e) for e in entries)), BLOCK_SIZE)


@pytest.fixture
def mixed() -> RaggedInputs:
    """A decode token at position 5, the middle of a prompt, a whole prompt.

    1. prompt 1..5 in blocks 7 and 2, one output token 40, all but that one computed;
    2. prompt 10..19 in blocks 0, 9 and 3, three computed, the next six run;
    3. prompt 50, 51 in block 5.
    """
    decoding = make_decoding(5, 40)
    decoding.block_table = [7, 2]
    cut = make_sequence(range(10, 20), computed=3)
    cut.block_table = [0, 9, 3]
    whole = make_sequence([50, 51])
    whole.block_table = [5]
    return ragged((decoding, 1), (cut, 6), (whole, 2))


def test_tokens_and_positions(mixed: RaggedInputs) -> None:
    assert mixed.input_ids.tolist() == [40, 13, 14, 15, 16, 17, 18, 50, 51]
    assert mixed.positions.tolist() == [5, 3, 4, 5, 6, 7, 8, 0, 1]


def test_each_position_has_its_slot(mixed: RaggedInputs) -> None:
    # position 5 is offset 1 of block 2; 3 is offset 3 of block 0; 4 to 7 fill block 9; 8 begins block 3
    assert mixed.slot_mapping.tolist() == [9, 3, 36, 37, 38, 39, 12, 20, 21]


def test_sequences_are_told_apart(mixed: RaggedInputs) -> None:
    assert mixed.query_start.tolist() == [0, 1, 7, 9]
    assert mixed.context_len.tolist() == [6, 9, 2]


def test_only_ends_of_sequences_are_sampled(mixed: RaggedInputs) -> None:
    assert mixed.sample_rows.tolist() == [0, 8]


def test_tables_hold_what_the_context_needs(mixed: RaggedInputs) -> None:
    assert mixed.block_tables.shape == (3, 3)
    assert mixed.block_tables[0, :2].tolist() == [7, 2]
    assert mixed.block_tables[1].tolist() == [0, 9, 3]
    assert mixed.block_tables[2, :1].tolist() == [5]


def test_dtypes_are_what_kernels_take(mixed: RaggedInputs) -> None:
    wide = (mixed.input_ids, mixed.positions, mixed.slot_mapping, mixed.sample_rows)
    narrow = (mixed.query_start, mixed.context_len, mixed.block_tables)
    assert {array.dtype for array in wide} == {np.dtype(np.int64)}
    assert {array.dtype for array in narrow} == {np.dtype(np.int32)}
    assert all(array.flags.c_contiguous for array in narrow)


def test_blocks_held_ahead_are_not_in_the_table() -> None:
    seq = make_sequence(6)
    seq.block_table = [3, 1, 8]
    inputs = ragged((seq, 4))
    assert inputs.block_tables.tolist() == [[3]]
    assert inputs.sample_rows.tolist() == []


def test_a_chunk_that_ends_with_its_block_begins_no_other() -> None:
    seq = make_sequence(8, computed=4)
    seq.block_table = [3, 1]
    inputs = ragged((seq, 4))
    assert inputs.slot_mapping.tolist() == [4, 5, 6, 7]
    assert inputs.context_len.tolist() == [8]
    assert inputs.sample_rows.tolist() == [3]
