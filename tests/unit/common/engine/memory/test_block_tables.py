import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from common.engine.memory.block_tables import BlockTables
from tests.examples import examples


def test_rows_are_the_tables_as_far_as_they_are_wanted() -> None:
    rows = BlockTables().rows([[7, 2, 9], [4]], [2, 1])
    assert rows.dtype == np.int32
    assert rows.flags.c_contiguous
    assert (rows.shape, rows[0].tolist(), rows[1, :1].tolist()) == ((2, 2), [7, 2], [4])


def test_a_table_that_grew_shows_its_new_blocks() -> None:
    tables, first, second = BlockTables(), [7], [4]
    tables.rows([first, second], [1, 1])
    first += [2, 9]
    rows = tables.rows([first, second], [3, 1])
    assert (rows[0].tolist(), rows[1, :1].tolist()) == ([7, 2, 9], [4])


def test_another_list_in_the_same_place_is_read_anew() -> None:
    tables = BlockTables()
    tables.rows([[7, 2]], [2])
    assert tables.rows([[3, 1]], [2]).tolist() == [[3, 1]]


@seed(0)
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5)), min_size=1, max_size=8)))
def test_any_history_gives_each_step_its_rows_for_good(steps: list[list[tuple[int, int]]]) -> None:
    """Each step names the sequences of its batch, in any order, and how many blocks each of them wants."""
    kept = BlockTables()
    held: dict[int, list[int]] = {}
    earlier: list[
        tuple[np.ndarray, list[int]]
    ] = []  # rows that a step was given, and what it read there
    for number, step in enumerate(steps):
        batch = dict(step)
        for name in held.keys() - batch.keys():
            held[name] = []  # preempted: another list
        for name, wanted in batch.items():
            table = held.setdefault(name, [])
            table += [100 * number + 10 * name + i for i in range(wanted - len(table))]
        rows = kept.rows([held[name] for name in batch], list(batch.values()))
        given_now = [
            (row, held[name][:wanted])
            for row, (name, wanted) in zip(rows, batch.items(), strict=True)
        ]
        for row, blocks in (*given_now, *earlier):
            assert row[: len(blocks)].tolist() == blocks
        earlier = given_now
