import json
from pathlib import Path

import pytest

from pdserve.errors import InvalidRequestError, SetupError
from router.intake.tokenizer import ChatMessage, Tokenizer
from tests.unit.router.tiny_tokenizer import BOS, IM_END, IM_START, write_folder

TURNS = [ChatMessage("system", "be brief"), ChatMessage("user", "hé?")]


def with_template(folder: Path, template: str) -> Tokenizer:
    return Tokenizer(write_folder(folder, chat_template=template))


def test_a_chat_is_the_template_s_text_and_its_marks_are_single_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_folder(tmp_path))
    assert tokenizer.render_chat(TURNS) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhé?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.encode_chat(TURNS) == [
        *(IM_START, *b"system\nbe brief", IM_END, *b"\n"),
        *(IM_START, *"user\nhé?".encode(), IM_END, *b"\n"),
        *(IM_START, *b"assistant\n"),
    ]


def test_text_gets_the_tokenizer_s_own_bos_and_a_chat_only_what_its_template_writes(
    tmp_path: Path,
) -> None:
    tokenizer = Tokenizer(write_folder(tmp_path, adds_bos=True))
    assert tokenizer.encode("hi") == [BOS, *b"hi"]
    assert tokenizer.encode_chat(TURNS).count(BOS) == 0


def test_special_tokens_are_read_from_text_and_left_out_of_it(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_folder(tmp_path))
    assert tokenizer.encode("a<|im_end|>b") == [ord("a"), IM_END, ord("b")]
    assert tokenizer.decode([BOS, ord("a"), IM_END, ord("b")]) == "ab"
    assert tokenizer.decode([]) == ""


def test_padding_and_truncation_that_training_left_behind_are_off(tmp_path: Path) -> None:
    file = write_folder(tmp_path) / "tokenizer.json"
    saved = json.loads(file.read_text())
    saved["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    file.write_text(json.dumps(saved))
    assert Tokenizer(tmp_path).encode("longer") == list(b"longer")


def test_templates_see_special_tokens_and_the_usual_helpers(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ eos_token }}{{ messages | tojson }}{{ strftime_now('%%') }}"
    rendered = with_template(tmp_path, template).render_chat(TURNS[1:])
    assert rendered == '<s><|im_end|>[{"role": "user", "content": "hé?"}]%'


def test_templates_may_break_out_of_loops_and_mark_generations(tmp_path: Path) -> None:
    template = (
        "{%- for m in messages -%}{%- if loop.index > 1 -%}{%- break -%}{%- endif -%}"
        "{%- generation -%}{{ m.content }}{%- endgeneration -%}{%- endfor -%}"
    )
    assert with_template(tmp_path, template).render_chat(TURNS) == "be brief"


def test_a_template_in_its_own_file_comes_before_the_configured_one(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[1].content }} 你", "utf-8")
    assert Tokenizer(tmp_path).render_chat(TURNS) == "hé? 你"


def test_of_several_named_templates_the_default_is_the_chat(tmp_path: Path) -> None:
    file = write_folder(tmp_path) / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    file.write_text(json.dumps({"chat_template": named}))
    assert Tokenizer(tmp_path).render_chat(TURNS) == "yes"
    file.write_text(json.dumps({"chat_template": named[:1]}))
    with pytest.raises(InvalidRequestError, match="no chat template"):
        Tokenizer(tmp_path).render_chat(TURNS)


SMOLVLM = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %};{% endfor %}"
)


def test_a_template_that_reads_parts_alone_gets_parts(tmp_path: Path) -> None:
    assert with_template(tmp_path, SMOLVLM).render_chat(TURNS) == "system: be brief;user: hé?;"


def test_a_template_in_a_processor_s_file_is_found(tmp_path: Path) -> None:
    write_folder(tmp_path, chat_template=None)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": SMOLVLM}))
    assert Tokenizer(tmp_path).render_chat(TURNS[1:]) == "user: hé?;"


def test_a_model_without_a_template_asks_for_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_folder(tmp_path, chat_template=None))
    with pytest.raises(InvalidRequestError, match="send text") as caught:
        tokenizer.encode_chat(TURNS)
    assert caught.value.field == "chat"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ nothing.here }}", "undefined"),
    ],
)
def test_what_a_template_will_not_write_is_the_request_s_fault(
    tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        with_template(tmp_path, template).render_chat(TURNS)
    assert caught.value.field == "chat"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "", r"tokenizer\.json cannot be read"),
        ("tokenizer.json", "{}", r"tokenizer\.json cannot be read"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json cannot be read"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json must hold keys"),
        ("chat_template.jinja", "\n{% if %}", "line 2 of the chat template"),
    ],
)
def test_a_broken_file_stops_the_start_and_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    write_folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(SetupError, match=message) as caught:
        Tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_a_decoder_shows_the_special_tokens_that_it_is_told_to(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_folder(tmp_path))
    ids = [IM_START, *b"a", IM_END]
    assert tokenizer.decode(ids) == tokenizer.decoder(frozenset())(ids) == "a"
    assert tokenizer.decoder(frozenset({"<|im_end|>", "<nothing>"}))(ids) == "a<|im_end|>"
    assert tokenizer.decoder(frozenset({"<nothing>"}))(ids) == "a"
