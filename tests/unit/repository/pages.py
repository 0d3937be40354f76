"""Our documents, for tests that read them: pages, headings, links, sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.unit.repository.sources import ROOT

_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_ITEM = re.compile(r"^ *(?:[-*]|\d+\.) +")
# an end of a sentence, but for three dots and the abbreviations that have a dot
_END = re.compile(r"(?<!\.\.)(?<!e\.g)(?<!i\.e)(?<!vs)[.!?][\"')*]*(?:\s+|$)")


def pages() -> list[Path]:
    """All documents but the changelog, whose entries stay as they were written."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    for folder in ("docs", "benchmarks", "deploy"):
        found += sorted((ROOT / folder).rglob("*.md"))
    return found


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("\n", text)


def links(text: str) -> list[str]:
    """The targets of a document's links, pictures apart, in their order."""
    return [target for mark, _, target in _LINK.findall(_without_code(text)) if not mark]


def pictures(text: str) -> list[str]:
    """The files of a document's pictures."""
    return [target for mark, _, target in _LINK.findall(_without_code(text)) if mark]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site name them."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", prose(text), re.MULTILINE)
    plain = (_LINK.sub(r"\2", heading).replace("`", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def code_spans(text: str) -> list[str]:
    """What a document's prose has between backticks."""
    return [" ".join(span.split()) for _, span in _CODE.findall(prose(text))]


def code_lines(text: str) -> list[str]:
    """The lines of a document's blocks of code."""
    return "\n".join(block[0] for block in _FENCE.finditer(text)).splitlines()


def sentences(text: str) -> Iterator[str]:
    """The sentences of paragraphs, list items and table cells; a span of code is one word."""
    for block in _blocks(prose(text)):
        plain = _LINK.sub(lambda link: " ".join(link[2].split()), block)
        plain = _CODE.sub("Code", plain)
        yield from (part.strip() for part in _END.split(plain) if part.strip())


def num_words(sentence: str) -> int:
    """Words with a letter or a digit."""
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", lambda span: "x" * len(span[0]), prose(text))


def _blocks(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        is_row = line.lstrip().startswith("|")
        if lines and (not line.strip() or is_row or line.startswith("#") or _ITEM.match(line)):
            yield " ".join(lines)
            lines = []
        if is_row:
            yield from (cell.strip() for cell in re.split(r"(?<!\\)\|", line) if cell.strip(" -:"))
        elif line.strip() and not line.startswith("#"):
            lines.append(_ITEM.sub("", line).strip())
