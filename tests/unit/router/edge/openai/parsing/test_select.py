"""Families of models, known by texts of their chat templates."""

from pathlib import Path

import pytest

from router.edge.openai.parsing import deepseek, harmony, hermes, json_calls, mistral
from router.edge.openai.parsing.forced import ForcedCalls
from router.edge.openai.parsing.plain import PlainText
from router.edge.openai.parsing.reasoning import ReasoningParser
from router.edge.openai.parsing.select import answer_form, can_call
from router.intake.tokenizer import Tokenizer
from tests.unit.router.edge.openai.parsing.reading import HARMONY, HARMONY_PROMPT, read
from tests.unit.router.tiny_tokenizer import write_folder

FAMILIES: list[tuple[str, type]] = [
    (deepseek.BEGIN, deepseek.DeepSeekCalls),
    ("[TOOL_CALLS]x[ARGS]", mistral.MistralCalls),
    ("[TOOL_CALLS]", json_calls.JsonCalls),
    ("<|python_tag|>", json_calls.JsonCalls),
    ('"parameters":', json_calls.JsonCalls),
    ("<tool_call>", hermes.HermesCalls),
    ("<|channel|>analysis<|message|>", harmony.HarmonyParser),
]


def tokenizer(folder: Path, template: str) -> Tokenizer:
    return Tokenizer(write_folder(folder, chat_template=f"{{# {template} #}}"))


@pytest.mark.parametrize(("sign", "kind"), FAMILIES)
def test_the_template_tells_the_family(tmp_path: Path, sign: str, kind: type) -> None:
    model = tokenizer(tmp_path, f"tools {sign}")
    assert can_call(model)
    form = answer_form(model, has_tools=True, is_forced=False)
    assert isinstance(form.make_parser("prompt"), kind)
    assert form.marks
    forced = answer_form(model, has_tools=True, is_forced=True)
    assert isinstance(forced.make_parser("prompt"), ForcedCalls)
    assert not forced.marks


def test_a_template_without_tools_or_with_an_unknown_form_cannot_call(tmp_path: Path) -> None:
    assert not can_call(tokenizer(tmp_path / "a", deepseek.BEGIN))
    assert not can_call(tokenizer(tmp_path / "b", "tools <function>"))


def test_without_tools_an_answer_is_text_unless_it_is_harmony_s(tmp_path: Path) -> None:
    plain = answer_form(
        tokenizer(tmp_path / "a", "tools <tool_call>"), has_tools=False, is_forced=False
    )
    assert isinstance(plain.make_parser("prompt"), PlainText)
    assert not plain.marks
    model = tokenizer(tmp_path / "b", "<|channel|><|message|>")
    form = answer_form(model, has_tools=False, is_forced=False)
    thoughts, text, calls = read(form.make_parser(HARMONY_PROMPT), [HARMONY])
    assert (thoughts, calls) == ("hm", [])
    assert "Done." in text


def test_thoughts_are_read_where_the_template_knows_them(tmp_path: Path) -> None:
    model = tokenizer(tmp_path, f"tools {deepseek.BEGIN} <think></think>")
    form = answer_form(model, has_tools=True, is_forced=False)
    parser = form.make_parser("<｜Assistant｜><think>\n")
    assert isinstance(parser, ReasoningParser)
    answer = f"hm</think>{deepseek.BEGIN}go{deepseek.SEPARATOR}{{}}{deepseek.END}"
    assert read(parser, [answer]) == ("hm", "", [("go", "{}")])
    assert {"<think>", "</think>", deepseek.SEPARATOR} < form.marks
