import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.policy import Candidate, LeastLoaded, Route

no_deadline = settings(deadline=None, derandomize=True)
candidates = st.builds(
    Candidate,
    name=st.text("abc", min_size=1, max_size=3),
    num_sequences=st.integers(0, 4),
    num_waiting_tokens=st.integers(0, 4),
    blocks_free=st.integers(0, 4),
)
pools = st.lists(candidates, max_size=6, unique_by=lambda candidate: candidate.name)


def worker(name: str, sequences: int = 0, tokens: int = 0, free: int = 100) -> Candidate:
    return Candidate(name, sequences, tokens, free)


def choose(prefill: list[Candidate], decode: list[Candidate]) -> Route | None:
    return LeastLoaded().choose(prefill, decode, 10)


def test_prefill_goes_by_waiting_tokens_and_decode_by_sequences() -> None:
    prefill = [worker("p0", sequences=0, tokens=900), worker("p1", sequences=9, tokens=20)]
    decode = [worker("d0", sequences=5, tokens=0), worker("d1", sequences=2, tokens=700)]
    assert choose(prefill, decode) == Route(decode="d1", prefill="p1")


def test_as_many_sequences_then_the_one_with_more_free_blocks() -> None:
    decode = [worker("d0", 2, free=5), worker("d1", 2, free=6), worker("d2", 2, free=6)]
    assert choose([], decode) == Route("d1")


@pytest.mark.parametrize("backwards", [False, True])
def test_a_tie_goes_to_the_first_name_in_whatever_order_they_come(backwards: bool) -> None:
    prefill, decode = [worker("p0"), worker("p1")], [worker("d0"), worker("d1")]
    if backwards:
        prefill, decode = prefill[::-1], decode[::-1]
    assert choose(prefill, decode) == Route("d0", "p0")


def test_without_a_prefill_worker_decode_does_both() -> None:
    assert choose([], [worker("d0")]) == Route("d0", prefill=None)


def test_without_a_decode_worker_there_is_no_route() -> None:
    assert choose([worker("p0")], []) is None


@no_deadline
@given(pools, pools)
def test_nobody_with_less_to_do_is_passed_over(
    prefill: list[Candidate], decode: list[Candidate]
) -> None:
    route = choose(prefill, decode)
    if not decode:
        assert route is None
        return
    assert route is not None
    target = next(c for c in decode if c.name == route.decode)
    assert target.num_sequences == min(c.num_sequences for c in decode)
    if prefill:
        source = next(c for c in prefill if c.name == route.prefill)
        assert source.num_waiting_tokens == min(c.num_waiting_tokens for c in prefill)
    assert route == choose(prefill[::-1], decode[::-1])
