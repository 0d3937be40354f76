"""The budgets of our documents: short lines, short sentences, a README for one sitting."""

import re
from pathlib import Path
from statistics import median

import pytest

from tests.unit.repository.pages import links, name_of, num_words, pages, prose, sentences
from tests.unit.repository.sources import ROOT

MAX_LINE, MAX_WORDS, MAX_MEDIAN_WORDS = 100, 25, 15
MAX_README_LINES, MAX_README_LINKS = 120, 10


def too_long_lines(text: str) -> list[str]:
    """Lines over the limit, but for rows of tables and what holds an address."""
    return [
        line
        for line in text.splitlines()
        if len(line) > MAX_LINE and not line.lstrip().startswith("|") and "://" not in line
    ]


def too_long_sentences(text: str) -> list[str]:
    """Sentences over the limit, each with its number of words."""
    counted = ((num_words(sentence), sentence) for sentence in sentences(text))
    return [f"{number}: {sentence}" for number, sentence in counted if number > MAX_WORDS]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_lines_have_at_most_100_characters(page: Path) -> None:
    assert too_long_lines(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_sentences_have_at_most_25_words(page: Path) -> None:
    assert too_long_sentences(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_half_of_a_page_s_sentences_have_at_most_15_words(page: Path) -> None:
    text = re.sub(r"^ *\|.*$", "", page.read_text("utf-8"), flags=re.MULTILINE)  # cells are short
    assert median(map(num_words, sentences(text))) <= MAX_MEDIAN_WORDS


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_no_semicolon_ends_a_line_of_a_sequence_diagram_early(page: Path) -> None:
    diagrams = re.findall(r"```mermaid\nsequenceDiagram\n(.*?)```", page.read_text(), re.DOTALL)
    assert not [diagram for diagram in diagrams if ";" in diagram]


def test_the_readme_is_read_in_one_sitting() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    assert max(map(len, prose(text).splitlines())) <= MAX_LINE  # rows of tables too
    assert 0 < len(links(text)) <= MAX_README_LINKS


LONG = " ".join(["word"] * 26)


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG}.",
        f"Short. {LONG}. Short.",
        f"- item\n- {LONG}\n",
        f"1. {' '.join(['word'] * 13)}\n   {' '.join(['word'] * 13)}\n",
        f"| a | {LONG} |",
        f"[{LONG}](page.md).",
        f"{' '.join(['`a. b`'] * 26)}.",
        f"{' '.join(['one'] * 25)} e.g. two.",
    ],
)
def test_a_long_sentence_is_found_wherever_it_stands(text: str) -> None:
    assert len(too_long_sentences(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"# {LONG}",
        f"```\n{LONG}.\n```\n",
        f"{' '.join(['word'] * 25)}. {' '.join(['word'] * 25)}?",
        f"{' '.join(['word'] * 20)}\n\n{' '.join(['word'] * 20)}\n",
        f"`{LONG}` is one word.",
        f"{' '.join(['word'] * 25)} - | = : ->",
    ],
)
def test_what_is_no_long_sentence_is_left_alone(text: str) -> None:
    assert too_long_sentences(text) == []


def test_a_long_line_is_found() -> None:
    assert too_long_lines(f"{'a' * 101}\n{'b' * 100}\n| {'c' * 101} |\n") == ["a" * 101]
