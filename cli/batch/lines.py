"""Reader of a file of prompts: all lines are read and checked before the first is sent."""

import json
from dataclasses import dataclass
from pathlib import Path

from cli.batch.fields import SAMPLING_KEYS, as_bool, as_text, refuse_unknown
from cli.batch.openai_lines import OPENAI_KEYS, OpenAiCall, read_openai_line
from cli.batch.prompts import read_messages, read_token_ids
from cli.batch.request import BESIDE_KEYS, make_ask
from cli.requests import Ask, as_chat
from pdserve.errors import SetupError
from pdserve.prompts import Prompt
from pdserve.v1 import inference_pb2

_PROMPT_KEYS = ("prompt", "messages", "token_ids")
_KEYS = SAMPLING_KEYS | BESIDE_KEYS | {*_PROMPT_KEYS, "raw", "request_id"}


@dataclass(frozen=True, slots=True)
class Line:
    """One request of the file, and the form of its answer."""

    number: int  # in the file, counted from 1
    ask: Ask
    openai: OpenAiCall | None = None  # set if the answer has OpenAI's form

    @property
    def name(self) -> str:
        """The id that the user gave this line, after its key; may be empty."""
        if self.openai is not None:
            return f"custom_id '{self.openai.custom_id}'"
        return f"request_id '{self.ask.request_id}'" if self.ask.request_id else ""


def read_lines(file: Path, flags: inference_pb2.SamplingParams, *, raw: bool) -> list[Line]:
    """Read every line that is not blank; `flags` apply where a line sets nothing.

    Raises SetupError with the number of the line.
    """
    try:
        # splitlines would also cut at characters that JSON allows inside a text
        texts = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--prompts-file {file} cannot be read: {error}") from error
    lines: list[Line] = []
    names: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                line = _read_line(number, text, flags, raw=raw)
                _check_name(line, names)
            except (ValueError, RecursionError) as error:
                message = f"--prompts-file {file} line {number}: {error}"
                raise SetupError(message, "see docs/use/batch.md") from error
            lines.append(line)
    if not lines:
        raise SetupError(f"--prompts-file {file} holds no prompts")
    return lines


def _check_name(line: Line, names: dict[str, int]) -> None:
    first = names.setdefault(line.name, line.number)
    if line.name and first != line.number:
        raise ValueError(f"{line.name} is that of line {first}")


def _read_line(number: int, text: str, flags: inference_pb2.SamplingParams, *, raw: bool) -> Line:
    entry = json.loads(text, object_pairs_hook=_no_key_twice)
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    if entry.keys() & OPENAI_KEYS:
        return Line(number, *read_openai_line(entry, flags))
    refuse_unknown(entry, _KEYS)
    request_id = entry.get("request_id")
    name = "" if request_id is None else as_text("request_id", request_id)
    return Line(number, make_ask(_read_prompt(entry, raw=raw), flags, entry, name))


def _read_prompt(entry: dict[str, object], *, raw: bool) -> Prompt:
    given = [key for key in _PROMPT_KEYS if entry.get(key) is not None]
    if not given:
        raise ValueError(f"no prompt: give one of {', '.join(_PROMPT_KEYS)}")
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other")
    if entry.get("raw") is not None:
        raw = as_bool("raw", entry["raw"])
    if given == ["messages"]:
        return read_messages(entry["messages"])
    if given == ["token_ids"]:
        return read_token_ids("token_ids", entry["token_ids"])
    text = as_text("prompt", entry["prompt"])
    return text if raw else as_chat(text)


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' is there twice")
        found[key] = value
    return found
