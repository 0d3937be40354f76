from common.messages import FinishReason, SamplingParams
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
