"""Code blocks of a document, so that a test can run what a reader would copy."""

import re

from tests.unit.repository.sources import ROOT


def blocks(path: str, heading: str, language: str) -> list[str]:
    """Return the code blocks of a language under a heading of a document, in their order."""
    text = (ROOT / path).read_text("utf-8")
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{path} has no heading {heading!r}"
    section = re.split(r"^#{2,6} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
