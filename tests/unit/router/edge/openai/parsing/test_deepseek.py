import pytest

from router.edge.openai.parsing.deepseek import BEGIN, END, SEPARATOR
from tests.unit.router.edge.openai.parsing.reading import ARGUMENTS, MAKERS, V3, V31, Outcome, read

CASES: list[tuple[str, Outcome]] = [
    ("no call <｜tool", ("", "no call <｜tool", [])),
    (V3, ("", "", [("weather", ARGUMENTS), ("stop", "{}")])),
    (V31, ("", "Look:\n", [("weather", ARGUMENTS), ("stop", "{}")])),
    (V31[: V31.index("{") - 4], ("", f"Look:\n{BEGIN}weather<｜tool▁s", [])),
    (V31[: V31.index("{") + 9], ("", "Look:\n", [("weather", ARGUMENTS[:9])])),
    (
        f"{BEGIN}function{SEPARATOR}{{}}{END}",
        ("", "", [("function", "{}")]),
    ),
    (
        f"{BEGIN}a{SEPARATOR}b{{}}{END}",
        ("", f"{BEGIN}a{SEPARATOR}b{{}}{END}", []),
    ),
    (
        f"{BEGIN}{'x' * 600}",
        ("", f"{BEGIN}{'x' * 600}", []),
    ),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_text_is_what_it_says_wherever_it_is_cut(text: str, expected: Outcome) -> None:
    for pieces in ([text], list(text), *([text[:at], text[at:]] for at in range(len(text)))):
        assert read(MAKERS["deepseek"](), pieces) == expected
