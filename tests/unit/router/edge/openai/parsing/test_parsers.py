import pytest

from router.edge.openai.parsing.events import CallStart, Content
from router.edge.openai.parsing.forced import ForcedCalls
from router.edge.openai.parsing.hermes import HermesCalls
from tests.unit.router.edge.openai.parsing.reading import (
    ARGUMENTS,
    CALL,
    FORCED,
    MAKERS,
    Outcome,
    read,
)

CASES: list[tuple[str, str, Outcome]] = [
    ("plain", "a<tool_call>", ("", "a<tool_call>", [])),
    ("hermes", "no call at all <tool", ("", "no call at all <tool", [])),
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", ("", "", [("weather", ARGUMENTS)])),
    (
        "hermes",
        f"Look:\n<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>",
        ("", "Look:\n", [("weather", ARGUMENTS)] * 2),
    ),
    ("hermes", f"x <tool_call>{CALL[:25]}", ("", f"x <tool_call>{CALL[:25]}", [])),
    ("hermes", f"x<tool_call>{CALL[:-5]}", ("", "x", [("weather", ARGUMENTS[:-4])])),
    ("hermes", f"<tool_call>{CALL[:-1]}</tool_call>", ("", "", [("weather", ARGUMENTS)])),
    ("hermes", f"<tool_call>{CALL}}}\n</tool_call>\n", ("", "", [("weather", ARGUMENTS)])),
    ("hermes", f"<tool_call>{CALL} so </tool_call>.", ("", " so .", [("weather", ARGUMENTS)])),
    ("hermes", f"<tool_call>{CALL}</tool_", ("", "", [("weather", ARGUMENTS)])),
    ("hermes", f"<tool_call>x<tool_call>{CALL}", ("", "<tool_call>x", [("weather", ARGUMENTS)])),
    (
        "hermes",
        '<tool_call>{"name": "a", "arguments": {"x": "</tool_call>"}}</tool_call>',
        ("", "", [("a", '{"x": "</tool_call>"}')]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "a", "arguments": {"x": 1</tool_call>!',
        ("", "!", [("a", '{"x": 1')]),
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"x": 1}, "id": 7, "name": "a"}</tool_call>',
        ("", "", [("a", '{"x": 1}')]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call>',
        ("", "", [("a", '{"x": 1}')]),
    ),
    ("hermes", '<tool_call>{"name": "a"}</tool_call>', ("", "", [("a", "{}")])),
    (
        "hermes",
        '<tool_call>{"name": "a", "arguments": null}</tool_call>',
        ("", "", [("a", "{}")]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        ("", '<tool_call>{"name": "", "arguments": {}}</tool_call>', []),
    ),
    ("hermes", "<tool_call>[1]</tool_call>", ("", "<tool_call>[1]</tool_call>", [])),
    ("json", CALL, ("", "", [("weather", ARGUMENTS)])),
    ("json", f"<|python_tag|>{CALL}; {CALL}", ("", "", [("weather", ARGUMENTS)] * 2)),
    ("json", f"[TOOL_CALLS] [{CALL}]", ("", "", [("weather", ARGUMENTS)])),
    ("json", '{"name": "weather", "parameters": {}}', ("", "", [("weather", "{}")])),
    ("json", CALL[:25], ("", CALL[:25], [])),
    ("json", CALL[:-5], ("", "", [("weather", ARGUMENTS[:-4])])),
    ("json", f"[{CALL}, {CALL}]", ("", "", [("weather", ARGUMENTS)] * 2)),
    ("json", f"[{CALL}]\n\nDone.", ("", "]\n\nDone.", [("weather", ARGUMENTS)])),
    ("json", f"[{CALL}, [1]]", ("", ", [1]]", [("weather", ARGUMENTS)])),
    ("json", '{"name": "Ann", "age": 3}', ("", '{"name": "Ann", "age": 3}', [])),
    ("json", "[1] says so", ("", "[1] says so", [])),
    ("json", " [TOOL_CALLS]", ("", " [TOOL_CALLS]", [])),
    ("json", '{"answer": 42}', ("", '{"answer": 42}', [])),
    ("json", "plain {text}", ("", "plain {text}", [])),
    ("mistral", "no call [TOOL", ("", "no call [TOOL", [])),
    (
        "mistral",
        f"Look.[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]stop[CALL_ID]x1[ARGS]{{}}\nSo.",
        ("", "Look.\nSo.", [("weather", ARGUMENTS), ("stop", "{}")]),
    ),
    ("mistral", "[TOOL_CALLS]weather[ARGS]", ("", "[TOOL_CALLS]weather[ARGS]", [])),
    (
        "mistral",
        f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS[:9]}",
        ("", "", [("weather", ARGUMENTS[:9])]),
    ),
    ("mistral", f"[TOOL_CALLS][{CALL}]", ("", f"[TOOL_CALLS][{CALL}]", [])),
    ("forced", FORCED, ("", "", [("a", ARGUMENTS), ("b", "{}")])),
    ("forced", FORCED[:15], ("", "", [])),
    ("forced", FORCED[:40], ("", "", [("a", FORCED[28:40])])),
    ("thinking", "<think>\nhm\n</think>\n\nYes.", ("hm", "Yes.", [])),
    ("thinking", "No <think> here", ("", "No <think> here", [])),
    ("thinking", "<think>cut", ("cut", "", [])),
    ("inside", "hm</think>Yes", ("hm", "Yes", [])),
    ("inside", "never ends </thi", ("never ends </thi", "", [])),
    (
        "inside",
        f"hm</think>\n<tool_call>{CALL}</tool_call>",
        ("hm", "", [("weather", ARGUMENTS)]),
    ),
]


@pytest.mark.parametrize(("kind", "text", "expected"), CASES)
def test_a_text_is_what_it_says(kind: str, text: str, expected: Outcome) -> None:
    assert read(MAKERS[kind](), [text]) == expected


@pytest.mark.parametrize(("kind", "text", "expected"), CASES)
def test_it_does_not_matter_where_the_text_is_cut(kind: str, text: str, expected: Outcome) -> None:
    assert read(MAKERS[kind](), list(text)) == expected
    for at in range(len(text)):
        assert read(MAKERS[kind](), [text[:at], text[at:]]) == expected


def test_text_is_not_held_back_for_longer_than_it_may_become_a_mark() -> None:
    parser = HermesCalls()
    assert parser.push("Yes, <tool") == [Content("Yes, ")]
    assert parser.push("box>") == [Content("<toolbox>")]


def test_calls_have_ids_of_their_own() -> None:
    events = [e for e in ForcedCalls().push(FORCED) if isinstance(e, CallStart)]
    assert len({event.call_id for event in events}) == len(events) == 2
