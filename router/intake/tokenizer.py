"""Text to token ids, and chats to text, without `transformers`, which would import torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from pdserve.errors import InvalidRequestError, SetupError
from router.intake.literal_text import LiteralText
from router.intake.token_bound import find_bound
from router.intake.token_bytes import find_token_bytes

_MAX_TOKEN_ID = 2**32 - 1  # the Rust library's


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A turn of a chat."""

    role: str
    content: str


class Tokenizer:
    """The model's tokenizer and chat template, read from its folder."""

    def __init__(self, model_dir: Path) -> None:
        """Read the files. Raises SetupError with the name of a file that cannot be read."""
        self._file = str(model_dir / "tokenizer.json")
        try:
            self._fast = _read_fast(self._file)
        except Exception as error:  # the Rust library raises bare Exception
            raise SetupError(f"{model_dir}/tokenizer.json cannot be read: {error}") from error
        file = _read_json(model_dir / "tokenizer.json")
        self._bound = find_bound(file)
        self._to_bytes = find_token_bytes(file.get("decoder"))
        added = self._fast.get_added_tokens_decoder()
        self._special_texts = {i: token.content for i, token in added.items() if token.special}
        self.literal_text = LiteralText(self._special_texts.values())
        config = _read_json(model_dir / "tokenizer_config.json")
        self._specials = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in config.items()
            if name.endswith("_token") and isinstance(token, str | dict)
        }
        source = _chat_template(model_dir, config)
        self._template_source = source or ""
        try:
            self._template = _environment().from_string(source) if source else None
        except TemplateSyntaxError as error:
            raise SetupError(
                f"{model_dir}: line {error.lineno} of the chat template is no Jinja: {error}"
            ) from error

    @property
    def has_chat_template(self) -> bool:
        """True if the model has a chat template."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a raw prompt, with the tokenizer's special tokens (BOS) if any."""
        return self._encode(text, add_special_tokens=True)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the token ids of a chat up to the assistant's turn. Raises InvalidRequestError."""
        return self.encode_rendered(self.render_chat(messages))

    def encode_rendered(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens that the tokenizer would add."""
        return self._encode(text, add_special_tokens=False)

    def encode_chat_text(self, text: str) -> list[int]:
        """Token ids of a rendered chat whose users' texts were protected (literal_text.py)."""
        if not self.literal_text.is_marked(text):
            return self.encode_rendered(text)
        ids: list[int] = []
        for piece, is_special in self.literal_text.split(text):
            # a special token alone is encoded as itself
            ids += self.encode_rendered(piece) if is_special else self._encode_literally(piece)
        return ids

    def least_tokens(self, text: str) -> int:
        """Return a lower bound on a text's tokens, without tokenizing it; 0 if none is known."""
        return self._bound.least_tokens(text) if self._bound else 0

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """Return the chat as the model's template writes it. Raises InvalidRequestError."""
        if self._template is None:
            raise InvalidRequestError(
                "this model has no chat template; send text (`pdserve generate --raw`)",
                field="chat",
            )
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return self.render({"messages": turns, "add_generation_prompt": True})

    def template_mentions(self, text: str) -> bool:
        """Tell whether the chat template's source holds a text, by which families are known."""
        return text in self._template_source

    def render(self, variables: Mapping[str, object]) -> str:
        """Return what the chat template makes of its variables. Raises InvalidRequestError."""
        if self._template is None:
            raise InvalidRequestError(
                "this model has no chat template; send text (`pdserve generate --raw`)",
                field="chat",
            )
        try:
            return self._template.render({**self._specials, **variables})
        except Exception as error:  # a template is a program: it raises what Python raises
            raise InvalidRequestError(
                f"the chat template refuses: {error}", field="chat"
            ) from error

    def text_of(self, token_id: int) -> str | None:
        """Return the token as tokenizer.json writes it; None for an id that it does not have."""
        if token_id > _MAX_TOKEN_ID:
            return None
        text: str | None = self._fast.id_to_token(token_id)
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; empty for one that tokenizer.json does not have."""
        text = self.text_of(token_id)
        return b"" if text is None else self._to_bytes(text)

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, special ones included."""
        return self._fast.decode(list(token_ids), skip_special_tokens=False)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the tokens, without special ones."""
        return self._fast.decode(list(token_ids), skip_special_tokens=True)

    def decoder(self, shown: frozenset[str]) -> Callable[[Sequence[int]], str]:
        """Return a function like `decode` whose text has the special tokens `shown`."""
        if not shown or shown.isdisjoint(self._special_texts.values()):
            return self.decode
        hidden = {i for i, text in self._special_texts.items() if text not in shown}
        return lambda token_ids: self.decode_all([i for i in token_ids if i not in hidden])

    def _encode_literally(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are plain text."""
        (encoding,) = self._literal.encode_batch([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    @cached_property
    def _literal(self) -> FastTokenizer:
        """A tokenizer of its own: the switch is one for all threads that encode."""
        fast = _read_fast(self._file)
        fast.encode_special_tokens = True
        return fast

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # only the library's batch calls let other threads run meanwhile
        (encoding,) = self._fast.encode_batch([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids


def _read_fast(file: str) -> FastTokenizer:
    fast = FastTokenizer.from_file(file)
    fast.no_padding()
    fast.no_truncation()
    return fast


def _read_json(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise SetupError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise SetupError(f"{path} must hold keys and values")
    return data


def _chat_template(model_dir: Path, config: dict[str, object]) -> str | None:
    file = model_dir / "chat_template.jinja"
    if file.exists():
        return file.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates; chats use the default one
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template if isinstance(template, str) else None


class _GenerationTag(Extension):
    """Tag `{% generation %}`, which marks the assistant's words for training; renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the tag's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    # Templates come with model files, so they are sandboxed. They get the two functions that most call.
    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment
