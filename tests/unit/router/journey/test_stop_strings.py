import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.journey.detokenizer import StopStrings
from tests.examples import examples


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Return all text that is sent for the pieces, and True if a stop was hit."""
    found = StopStrings(stops)
    sent = "".join(found.push(piece) for piece in pieces) + found.flush()
    return sent, found.is_hit


@pytest.mark.parametrize(
    ("stops", "pieces", "sent", "is_hit"),
    [
        (["END"], ["text END more"], "text ", True),
        (["END"], ["text E", "N", "D more", "END"], "text ", True),
        (["END"], ["text EN", "EN", "D!"], "text EN", True),
        (["END"], ["text E", "N"], "text EN", False),
        (["\n\n"], ["a\n", "b\n", "\nc"], "a\nb", True),
        (["。"], ["你好", "。", "再见"], "你好", True),
        (["aab"], ["a", "a", "a", "b"], "a", True),
        (["abab"], ["aba", "cab", "ab", "x"], "abac", True),
        ([], ["any", "thing"], "anything", False),
    ],
)
def test_text_ends_before_the_stop_wherever_pieces_are_cut(
    stops: list[str], pieces: list[str], sent: str, is_hit: bool
) -> None:
    assert run(stops, pieces) == (sent, is_hit)


def test_the_stop_that_is_complete_first_counts() -> None:
    assert run(["bc", "abcd"], ["abcd"]) == ("a", True)
    assert run(["bc", "abcd"], ["abc", "d"]) == ("a", True)


def test_of_two_that_are_complete_together_the_longer_counts() -> None:
    assert run(["d", "bcd"], ["abcd"]) == ("a", True)
    assert run(["bcd", "d"], ["a", "b", "c", "d"]) == ("a", True)


def test_only_what_may_become_a_stop_is_held_back() -> None:
    stops = StopStrings(["</answer>"])
    assert stops.push("done</") == "done"
    assert stops.push("ans") == ""
    assert stops.push("!") == "</ans!"
    assert stops.push("x < y") == "x < y"


def test_after_the_stop_nothing_is_sent_any_more() -> None:
    stops = StopStrings(["."])
    assert stops.push("a. b") == "a"
    assert (stops.push("more"), stops.flush(), stops.is_hit) == ("", "", True)


few_letters = st.text("ab", max_size=24)


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    few_letters,
    st.lists(st.integers(0, 24), max_size=8),
)
@example(["bc", "abcd"], "abcd", [3])
def test_where_the_pieces_are_cut_makes_no_difference(
    stops: list[str], text: str, cuts: list[int]
) -> None:
    ends = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    found = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text
    if found:
        end, negative_length = min(found)
        expected = text[: end + negative_length]
    assert run(stops, pieces) == (expected, bool(found))
    assert run(stops, list(text)) == (expected, bool(found))


def test_a_stop_that_is_complete_too_early_does_not_count() -> None:
    stops = StopStrings(["END"])
    assert stops.push("an EN", may_stop=False) == "an "
    assert stops.push("D and E", may_stop=False) == "END and "
    assert stops.push("ND?") == ""
    assert stops.is_hit


def test_one_that_overlaps_an_early_one_counts() -> None:
    stops = StopStrings(["aa"])
    assert stops.push("aa", may_stop=False) == "a"
    assert stops.push("a") == ""
    assert stops.is_hit


def test_an_early_one_that_is_held_back_for_a_longer_one_does_not_count_later() -> None:
    stops = StopStrings(["ab", "xabyy"])
    assert stops.push("xab", may_stop=False) == ""
    assert stops.push("yz") == "xabyz"
    assert not stops.is_hit
    assert stops.push("ab") == ""
    assert stops.is_hit
