"""Properties of all parsers: the cut of the text does not matter, and arguments stream verbatim."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.edge.openai.parsing import deepseek, harmony
from router.edge.openai.parsing.events import CallArguments, CallStart
from router.edge.openai.parsing.hermes import HermesCalls
from tests.unit.router.edge.openai.parsing.reading import CALL, MAKERS, V3, V31, read

Writer = Callable[[str, str], str]
# a call with a name and arguments, as each family writes it
WRITERS: dict[str, tuple[str, Writer]] = {
    "hermes": (
        "hermes",
        lambda n, a: f'<tool_call>\n{{"name": "{n}", "arguments": {a}}}\n</tool_call>',
    ),
    "llama": ("json", lambda n, a: f'{{"name": "{n}", "parameters": {a}}}'),
    "mistral": ("mistral", lambda n, a: f"[TOOL_CALLS]{n}[CALL_ID]x1[ARGS]{a}"),
    "mistral-list": ("json", lambda n, a: f'[TOOL_CALLS] [{{"name": "{n}", "arguments": {a}}}]'),
    "forced": ("forced", lambda n, a: f'[{{"name": "{n}", "arguments": {a}}}]'),
    "deepseek-v3": (
        "deepseek",
        lambda n, a: (
            f"{deepseek.BEGIN}function{deepseek.SEPARATOR}{n}\n```json\n{a}\n```{deepseek.END}"
        ),
    ),
    "deepseek-v3.1": (
        "deepseek",
        lambda n, a: f"{deepseek.BEGIN}{n}{deepseek.SEPARATOR}{a}{deepseek.END}",
    ),
    "harmony": (
        "harmony",
        lambda n, a: f"<|channel|>commentary to=functions.{n} json<|message|>{a}<|call|>",
    ),
    "thinking": (
        "thinking",
        lambda n, a: f'<think>\nhm</think>\n<tool_call>{{"name": "{n}", "arguments": {a}}}',
    ),
}
FRAGMENTS = [
    *("<", "think>", "</think>", "<tool_call>", "</tool_call>", CALL, V3, V31, CALL[:30]),
    *('{"arguments": {}, "name": "a"}', '{"name": "a"}', "[TOOL_CALLS]", "<|python_tag|>"),
    *("[TOOL_CALLS]a[ARGS]", "[ARGS]", "[CALL_ID]", "[TOOL_CALLS]stop[CALL_ID]x1[ARGS]{}"),
    *(deepseek.BEGIN, deepseek.END, deepseek.SEPARATOR, *deepseek.AROUND, "function", "```json"),
    *(*harmony.MARKS, "analysis", "final", "commentary to=functions.a"),
    *("{", "}", "[", "]", ",", ";", '"', "\\", "é", " ", "\n", "x"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=6), JSON, max_size=4)


@given(st.sampled_from(sorted(MAKERS)), st.lists(st.sampled_from(FRAGMENTS)), st.data())
def test_it_does_not_matter_where_any_text_is_cut(
    kind: str, fragments: list[str], data: st.DataObject
) -> None:
    text = "".join(fragments)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(MAKERS[kind](), pieces) == read(MAKERS[kind](), [text])
    assert read(MAKERS[kind](), list(text)) == read(MAKERS[kind](), [text])


@given(st.sampled_from(sorted(WRITERS)), ARGUMENTS, st.booleans(), st.data())
def test_a_call_has_the_arguments_that_the_model_wrote_and_a_cut_one_a_part_of_them(
    family: str, arguments: dict[str, object], ascii_only: bool, data: st.DataObject
) -> None:
    kind, write = WRITERS[family]
    written = json.dumps(arguments, ensure_ascii=ascii_only)
    text = write("weather", written)
    assert read(MAKERS[kind](), list(text))[1:] == ("", [("weather", written)])
    cut = text[: data.draw(st.integers(0, len(text)))]
    calls = read(MAKERS[kind](), list(cut))[2]
    assert [name for name, _ in calls] in ([], ["weather"])
    assert all(written.startswith(found) for _, found in calls)


@pytest.mark.parametrize("family", WRITERS)
def test_arguments_go_on_letter_by_letter_behind_the_name(family: str) -> None:
    kind, write = WRITERS[family]
    arguments = '{"city": "Oslo", "days": [1, {"to": 2}]}'
    parser = MAKERS[kind]()
    events = [event for letter in write("weather", arguments) for event in parser.push(letter)]
    calls = [event for event in events if isinstance(event, CallStart | CallArguments)]
    start = calls[0]
    assert isinstance(start, CallStart)
    assert (start.number, start.name) == (0, "weather")
    assert calls[1:] == [CallArguments(0, letter) for letter in arguments]


@given(st.lists(st.text(alphabet="<tol_cai>x{} \n", max_size=6)))
def test_text_without_a_call_is_all_there(pieces: list[str]) -> None:
    text = "".join(pieces)
    thoughts, shown, calls = read(HermesCalls(), pieces)
    assert (thoughts, calls) == ("", [])
    assert shown == (text if text.strip() else "")
