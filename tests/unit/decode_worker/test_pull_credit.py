"""A token's KV is 1 MiB here, and a pull may have four items on its way: two ahead, two at hand."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import TransferConfig
from common.kv_transfer.layout import KVLayout, KVShape
from common.kv_transfer.node_store import FixedStore
from decode_worker.pull_credit import PullCredit
from tests.unit.common.engine.sequences import make_sequence

MIB = 2**20
LAYOUT = KVLayout("m", (KVShape(1, MIB // 4, MIB // 4),), "bfloat16", 2, 100)
assert LAYOUT.num_bytes(1) == MIB


def make_credit(
    store_mib: int = 1000, max_inflight_mib: int = 256, max_item_mib: int = 16
) -> PullCredit:
    config = TransferConfig(max_inflight_mib=max_inflight_mib, max_item_mib=max_item_mib)
    return PullCredit(config, LAYOUT, FixedStore(store_mib * MIB))


def test_the_smaller_of_setting_and_share_counts() -> None:
    assert make_credit(store_mib=1000).total_bytes == 256 * MIB
    assert make_credit(store_mib=100).total_bytes == 100 * MIB


def test_a_short_prompt_costs_what_it_has_and_a_long_one_what_can_be_on_its_way() -> None:
    credit = make_credit()
    assert credit.max_item_tokens == 16
    assert credit.cost(make_sequence(10)) == 10 * MIB
    assert credit.cost(make_sequence(10_000)) == 4 * 16 * MIB
    # what the prefix cache holds does not travel
    assert credit.cost(make_sequence(50, computed=45)) == 5 * MIB


def test_in_a_small_store_items_are_smaller_so_that_two_pulls_fit() -> None:
    credit = make_credit(store_mib=40)
    assert credit.max_item_tokens == 40 // 8
    assert credit.cost(make_sequence(10_000)) == 20 * MIB


def test_pulls_start_while_they_fit_and_the_first_always() -> None:
    credit = make_credit(store_mib=40)
    long = make_sequence(10_000)
    for _ in range(2):
        assert credit.can_pull(long)
        credit.taken_bytes += credit.cost(long)
    assert not credit.can_pull(long)
    assert not credit.can_pull(make_sequence(1))
    tiny = PullCredit(TransferConfig(), replace(LAYOUT, shapes=LAYOUT.shapes * 99), FixedStore(MIB))
    assert tiny.cost(long) > tiny.total_bytes
    assert tiny.can_pull(long)


@settings(deadline=None, derandomize=True)
@given(st.integers(8, 500), st.integers(1, 500), st.lists(st.integers(1, 9999), min_size=1))
def test_no_prompts_of_any_length_exceed_the_cap(
    store_mib: int, max_item_mib: int, lengths: list[int]
) -> None:
    credit = make_credit(store_mib, max_item_mib=max_item_mib)
    for length in lengths:
        seq = make_sequence(length)
        if credit.can_pull(seq):
            credit.taken_bytes += credit.cost(seq)
    assert 0 < credit.taken_bytes <= credit.total_bytes


def test_what_waits_is_wanted_until_it_does_not() -> None:
    credit = make_credit()
    short, long = make_sequence(10), make_sequence(10_000)
    credit.want(short)
    credit.want(long)
    assert credit.wanted_bytes == (10 + 4 * 16) * MIB
    short.num_computed_tokens = 5
    credit.unwant(short)
    assert credit.wanted_bytes == 4 * 16 * MIB
    credit.unwant(long)
    assert credit.wanted_bytes == 0
