import pytest

from router.edge.openai.parsing.harmony import HarmonyParser
from tests.unit.router.edge.openai.parsing.reading import ARGUMENTS, HARMONY, MAKERS, Outcome, read

CASES: list[tuple[str, Outcome]] = [
    (HARMONY, ("hm", "Let me look.\nDone.", [("weather", ARGUMENTS)])),
    (HARMONY[:70], ("hm", "", [])),
    (HARMONY[:130], ("hm", "Let me look.", [])),
    (
        " to=functions.stop<|channel|>commentary<|message|><|call|>",
        ("", "", [("stop", "{}")]),
    ),
    (
        "<|channel|>commentary to=functions.a json<|message|>{<|call|>",
        ("", "", [("a", "{")]),
    ),
    (
        '<|channel|>commentary to=functions.a<|message|>{"x',
        ("", "", [("a", '{"x')]),
    ),
    (
        "<|channel|>analysis<|message|>a<|end|><|channel|>analysis<|message|>b<|start|>assistant"
        "<|channel|>final<|message|>c<|return|>",
        ("a\nb", "c", []),
    ),
    ("no format", ("", "no format", [])),
    ("x" * 600, ("", "x" * 600, [])),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_text_is_what_it_says_wherever_it_is_cut(text: str, expected: Outcome) -> None:
    for pieces in ([text], list(text), *([text[:at], text[at:]] for at in range(len(text)))):
        assert read(MAKERS["harmony"](), pieces) == expected


def test_an_answer_goes_on_where_the_prompt_ends() -> None:
    header = "<|start|>assistant<|channel|>"
    final = HarmonyParser(f"{header}final<|message|>Once", has_tools=True)
    assert read(final, [" upon<|return|>"]) == ("", " upon", [])
    thoughts = HarmonyParser(f"{header}analysis<|message|>", has_tools=True)
    assert read(thoughts, ["hm<|end|>"]) == ("hm", "", [])
    begun = HarmonyParser(f"{header}analysis", has_tools=True)
    assert read(begun, ["<|message|>hm<|end|>"]) == ("hm", "", [])
    ended = HarmonyParser(f"{header}analysis<|message|>hm<|end|>", has_tools=True)
    assert read(ended, ["<|start|>assistant<|channel|>final<|message|>Yes"]) == ("", "Yes", [])


def test_without_tools_a_call_is_text() -> None:
    parser = HarmonyParser("<|start|>assistant", has_tools=False)
    text = "<|channel|>commentary to=functions.a<|message|>{}<|call|>"
    assert read(parser, [text]) == ("", "{}", [])
