import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import FinishReason, SamplingParams
from pdserve.errors import InvalidRequestError
from router.intake.job import Job
from router.journey.output_text import OutputText


def text_of(
    min_tokens: int, stops: tuple[str, ...] = (), **sampling: tuple[int, ...]
) -> OutputText:
    """Decode tokens that are the bytes of a text."""
    params = SamplingParams(0.0, 0, 99, min_tokens=min_tokens, **sampling)  # type: ignore[arg-type]
    job = Job("r", (1,), params, stops)
    return OutputText(lambda tokens: bytes(tokens).decode(errors="replace"), job)


def test_a_stop_text_counts_from_the_token_that_is_number_min_tokens() -> None:
    for min_tokens, expected in (
        (0, "ab"),
        (4, "ab"),
        (5, "ab--cd"),
        (8, "ab--cd"),
        (9, "ab--cd--"),
    ):
        pieces = [text_of(min_tokens, ("--",)) for _ in range(2)]
        whole = pieces[0].push(tuple(b"ab--cd--"), FinishReason.LENGTH)
        parts = "".join(
            pieces[1].push((byte,), FinishReason.LENGTH if last else None)
            for byte, last in zip(b"ab--cd--", [False] * 7 + [True], strict=True)
            if not pieces[1].is_stopped
        )
        assert whole == parts == expected
        assert pieces[0].is_stopped == pieces[1].is_stopped == (min_tokens < 9)


def test_the_token_that_stopped_is_not_seen_and_what_is_held_back_comes_at_the_end() -> None:
    text = text_of(0, ("END",), stop_token_ids=(ord("."),))
    assert text.push(tuple(b"no EN"), None) == "no "
    assert text.push(tuple(b"."), FinishReason.STOP) == "EN"


def test_a_stop_token_that_came_last_of_all_at_the_limit_is_seen() -> None:
    text = text_of(0, stop_token_ids=(ord("."),))
    assert text.push(tuple(b"a."), FinishReason.LENGTH) == "a."


# letters of one to four bytes, from which texts and stop texts are likely to overlap
letters = st.text("ab日🎉é", max_size=12)


@given(
    letters,
    st.lists(st.text("ab日🎉", min_size=1, max_size=3), max_size=3),
    st.integers(0, 8),
    st.lists(st.integers(0, 48), max_size=3),
    st.binary(max_size=3),
)
def test_text_behind_tokens_that_are_replayed_joins_the_text_before(
    text: str, stops: list[str], min_tokens: int, cuts: list[int], broken: bytes
) -> None:
    tokens = tuple(broken + text.encode() + broken)
    whole, sent, places = text_of(min_tokens, tuple(stops)), "", [0]
    for place, token in enumerate(tokens):
        last = FinishReason.LENGTH if place == len(tokens) - 1 else None
        sent += whole.push((token,), last)
        if whole.is_stopped or last:
            break
        places.append(place + 1)
    ends = sorted({places[cut % len(places)] for cut in cuts})  # at each the router changes
    joined, first = "", 0
    for end in (*ends, len(tokens)):
        part = text_of(min_tokens, tuple(stops))
        part.replay(tokens[:first])
        for place in range(first, end):
            last = FinishReason.LENGTH if place == len(tokens) - 1 else None
            joined += part.push((tokens[place],), last)
            if part.is_stopped:
                break
        first = end
    assert joined == sent


def test_tokens_behind_which_nothing_can_come_are_refused() -> None:
    text = text_of(0, ("END",))
    text.replay(tuple(b"text EN"))
    with pytest.raises(InvalidRequestError, match="the stop text 'END' has ended") as caught:
        text_of(0, ("END",)).replay(tuple(b"text END"))
    assert caught.value.field == "received.token_ids"
