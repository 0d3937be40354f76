"""Log-probabilities on their way from prefill to decode."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kv_transfer.wire import (
    FirstTokenHeader,
    WireError,
    WireItem,
    check_first_token,
    decode_header,
    make_first_token,
)
from common.messages import TokenLogprobs
from tests.unit.common.kv_transfer.samples import FIRST_TOKEN

ENTRIES = [TokenLogprobs(-0.5 * i, (i, 70_000), (-0.25, -8.0)) for i in range(7)]


def received(item: WireItem) -> FirstTokenHeader:
    header = decode_header(item[0])
    assert isinstance(header, FirstTokenHeader)
    return header


def entries(num_top: int) -> st.SearchStrategy[list[TokenLogprobs]]:
    def tops(elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, ...]]:
        return st.lists(elements, min_size=num_top, max_size=num_top).map(tuple)

    floats, ids = st.floats(max_value=0, width=32), st.integers(0, 2**32 - 1)
    one = st.builds(TokenLogprobs, floats, tops(ids), tops(floats))
    return st.lists(one, max_size=6)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 20).flatmap(entries))
def test_a_prompt_s_log_probabilities_come_back_equal(sent: list[TokenLogprobs]) -> None:
    item = make_first_token(FIRST_TOKEN, sent)
    assert check_first_token(received(item), item[1], len(sent) + 1, scored=True) == sent


def test_token_1_s_own_come_back_equal() -> None:
    header = FIRST_TOKEN.model_copy(update={"logprobs": (-0.5, (3, 9), (-0.25, -0.5))})
    item = make_first_token(header, None)
    assert item[1] is None
    assert received(item) == header
    assert check_first_token(header, None, 5, scored=False) is None


def test_those_of_another_prompt_or_damaged_ones_are_refused() -> None:
    item = make_first_token(FIRST_TOKEN, ENTRIES)
    header, payload = received(item), item[1]
    assert payload is not None
    damaged = payload.copy()
    damaged[5] ^= 1
    cut = make_first_token(FIRST_TOKEN, ENTRIES[:-1])
    for bad_header, bad_payload, num_prompt_tokens in (
        (header, damaged, 8),
        (header, None, 8),
        (header, payload, 9),
        (header, payload[:-4], 8),
        (header, cut[1], 8),
        (header.model_copy(update={"prompt_top": 1}), payload, 8),
        (FIRST_TOKEN, None, 8),
    ):
        with pytest.raises(WireError, match="log-probabilities of the prompt"):
            check_first_token(bad_header, bad_payload, num_prompt_tokens, scored=True)
