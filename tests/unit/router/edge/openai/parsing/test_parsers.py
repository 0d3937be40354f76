import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.edge.openai.parsing.events import (
    CallArguments,
    CallStart,
    Content,
    Event,
    Parser,
    Reasoning,
)
from router.edge.openai.parsing.forced import ForcedCalls
from router.edge.openai.parsing.hermes import HermesCalls
from router.edge.openai.parsing.json_calls import JsonCalls
from router.edge.openai.parsing.plain import PlainText
from router.edge.openai.parsing.reasoning import ReasoningParser

Outcome = tuple[str, str, list[tuple[str, str]]]  # thoughts, text, calls
WEATHER = {"city": 'Oslo } "x" \\', "days": [1, 2]}
CALL = json.dumps({"name": "weather", "arguments": WEATHER})
FORCED = json.dumps([{"name": "a", "arguments": WEATHER}, {"name": "b", "arguments": {}}])
MAKERS: dict[str, Callable[[], Parser]] = {
    "plain": PlainText,
    "hermes": HermesCalls,
    "json": JsonCalls,
    "forced": ForcedCalls,
    "thinking": lambda: ReasoningParser(HermesCalls(), is_inside=False),
    "inside": lambda: ReasoningParser(HermesCalls(), is_inside=True),
}


def joined(events: Sequence[Event]) -> Outcome:
    """What all events make together."""
    thoughts = "".join(e.text for e in events if isinstance(e, Reasoning))
    text = "".join(e.text for e in events if isinstance(e, Content))
    names = {e.number: e.name for e in events if isinstance(e, CallStart)}
    arguments = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, CallArguments):
            arguments[event.number] += event.text
    return thoughts, text, [(names[number], arguments[number]) for number in names]


def read(parser: Parser, pieces: Sequence[str]) -> Outcome:
    """The outcome of a text that comes in pieces."""
    events = [event for piece in pieces for event in parser.push(piece)]
    return joined([*events, *parser.finish()])


CASES: list[tuple[str, str, Outcome]] = [
    ("plain", "a<tool_call>", ("", "a<tool_call>", [])),
    ("hermes", "no call at all <tool", ("", "no call at all <tool", [])),
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", ("", "", [("weather", json.dumps(WEATHER))])),
    (
        "hermes",
        f"Look:\n<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>",
        ("", "Look:\n", [("weather", json.dumps(WEATHER))] * 2),
    ),
    ("hermes", f"x<tool_call>{CALL[:-5]}", ("", f"x<tool_call>{CALL[:-5]}", [])),
    ("hermes", "<tool_call>[1]</tool_call>", ("", "<tool_call>[1]</tool_call>", [])),
    ("json", CALL, ("", "", [("weather", json.dumps(WEATHER))])),
    ("json", f"<|python_tag|>{CALL}; {CALL}", ("", "", [("weather", json.dumps(WEATHER))] * 2)),
    ("json", f"[TOOL_CALLS] [{CALL}]", ("", "", [("weather", json.dumps(WEATHER))])),
    ("json", '{"name": "weather", "parameters": {}}', ("", "", [("weather", "{}")])),
    ("json", CALL[:-5], ("", CALL[:-5], [])),
    ("json", '{"answer": 42}', ("", '{"answer": 42}', [])),
    ("json", "plain {text}", ("", "plain {text}", [])),
    ("forced", FORCED, ("", "", [("a", json.dumps(WEATHER)), ("b", "{}")])),
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
        ("hm", "", [("weather", json.dumps(WEATHER))]),
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


@given(
    st.sampled_from(sorted(MAKERS)),
    st.lists(
        st.sampled_from(
            [
                "<",
                "think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                CALL,
                "{",
                "[",
                '"',
                "é",
                " ",
                "\n",
                "x",
            ]
        ),
        max_size=12,
    ),
)
def test_pieces_and_the_whole_say_the_same(kind: str, pieces: list[str]) -> None:
    assert read(MAKERS[kind](), pieces) == read(MAKERS[kind](), ["".join(pieces)])


@given(st.lists(st.text(alphabet="<tol_cai>x{} \n", max_size=6)))
def test_text_without_a_call_is_all_there(pieces: list[str]) -> None:
    text = "".join(pieces)
    thoughts, shown, calls = read(HermesCalls(), pieces)
    assert (thoughts, calls) == ("", [])
    assert shown == (text if text.strip() else "")


def test_text_is_not_held_back_for_longer_than_it_may_become_a_mark() -> None:
    parser = HermesCalls()
    assert parser.push("Yes, <tool") == [Content("Yes, ")]
    assert parser.push("box>") == [Content("<toolbox>")]


def test_calls_have_ids_of_their_own() -> None:
    events = [e for e in ForcedCalls().push(FORCED) if isinstance(e, CallStart)]
    assert len({event.call_id for event in events}) == len(events) == 2
