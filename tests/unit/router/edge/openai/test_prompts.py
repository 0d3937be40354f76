"""Histories with calls and thoughts as the templates of some families want them."""

from pathlib import Path

import pytest

from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.fields import parse
from router.edge.openai.prompts import chat_prompt
from router.edge.openai.template_style import TemplateStyle, style_of
from router.intake.job import Limits
from router.intake.tokenizer import Tokenizer
from tests.unit.router.tiny_tokenizer import CHAT_TEMPLATE, VOCAB_SIZE, write_folder

LIMITS = Limits("tiny", VOCAB_SIZE, 4096, 4096)
# each as far as matters here
DEEPSEEK = (
    "{% for message in messages %}{% for tool in message['tool_calls'] or [] %}"
    "{{ '<' + tool['function']['name'] + '|' + tool['function']['arguments'] + '>' }}{% endfor %}"
    "{% if message['content'] is not none %}{{ '<says ' + message['content'] + '>' }}{% endif %}"
    "{% endfor %}"
)
GPT_OSS = (
    "{% for tool in tools or [] %}{% set tool = tool.function %}"
    "{{ '// ' + tool.description + ' ' }}{% endfor %}"
    "{% for message in messages %}{% if message.content and message.thinking and message.tool_calls %}"
    "{{ raise_exception('both') }}{% endif %}<thinks {{ message.thinking }}>"
    "<says {{ message.content }}>{% endfor %}"
)
OTHERS = (
    "{% for message in messages %}{% for tool in message.tool_calls or [] %}"
    "<{{ tool.function.name }}|{{ tool.function.arguments | tojson }}>{% endfor %}"
    "<thinks {{ message.reasoning_content }}><says {{ message.content }}>{% endfor %}"
)


def rendered(folder: Path, template: str, *turns: dict[str, object], **options: object) -> str:
    tokenizer = Tokenizer(write_folder(folder, chat_template=template))
    asked = parse(ChatRequest, {"messages": [*turns], "add_generation_prompt": False, **options})
    return chat_prompt(asked, asked.tools or [], tokenizer, LIMITS).text


def turn(arguments: object = None, **fields: object) -> dict[str, object]:
    """A turn of the assistant, with a call if there are arguments."""
    function = {"name": "go", "arguments": arguments}
    calls = {} if arguments is None else {"tool_calls": [{"id": "c", "function": function}]}
    return {"role": "assistant", **calls, **fields}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEEPSEEK, TemplateStyle(takes_text_arguments=True, takes_null=True)),
        (GPT_OSS, TemplateStyle(takes_thinking=True, needs_descriptions=True)),
        (OTHERS, TemplateStyle()),
        (CHAT_TEMPLATE + "{# developer #}", TemplateStyle(knows_developer=True)),
    ],
)
def test_a_template_s_source_tells_its_style(
    tmp_path: Path, template: str, expected: TemplateStyle
) -> None:
    assert style_of(Tokenizer(write_folder(tmp_path, chat_template=template))) == expected


@pytest.mark.parametrize("arguments", ['{"to": "é"}', {"to": "é"}])
def test_arguments_are_a_text_or_an_object_as_the_template_wants(
    tmp_path: Path, arguments: object
) -> None:
    for template in (DEEPSEEK, OTHERS):
        assert '<go|{"to": "é"}>' in rendered(tmp_path, template, turn(arguments))
    assert "<go|{}>" in rendered(tmp_path, DEEPSEEK, turn(""))
    assert '<go|"{broken">' in rendered(tmp_path, OTHERS, turn("{broken"))
    assert "<go|{broken>" in rendered(tmp_path, DEEPSEEK, turn("{broken"))


def test_a_call_without_content_says_nothing_where_the_template_asks_for_null(
    tmp_path: Path,
) -> None:
    assert rendered(tmp_path, DEEPSEEK, turn("{}", content=None)) == "<go|{}>"
    assert rendered(tmp_path, DEEPSEEK, turn("{}", content="hm")) == "<go|{}><says hm>"
    assert rendered(tmp_path, DEEPSEEK, turn(content="hm"), turn(content="")) == "<says hm><says >"
    assert rendered(tmp_path, OTHERS, turn("{}")).endswith("<says >")


def test_thoughts_of_a_history_have_the_template_s_name(tmp_path: Path) -> None:
    for template in (GPT_OSS, OTHERS):
        text = rendered(tmp_path, template, turn(content="hi", reasoning_content="hm"))
        assert text == "<thinks hm><says hi>"
    assert rendered(tmp_path, GPT_OSS, turn("{}", reasoning="hm")) == "<thinks hm><says >"
    # before a call GPT-OSS's template takes content as the thoughts, and refuses both
    both = turn("{}", content="hi", reasoning="hm")
    assert rendered(tmp_path, GPT_OSS, both) == "<thinks ><says hi>"


def test_a_tool_without_a_description_has_an_empty_one_where_one_is_needed(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "go"}}]
    assert rendered(tmp_path, GPT_OSS, turn(content="a"), tools=tools).startswith("//  <")
