"""The flags of `pdserve generate` for structured output."""

from pathlib import Path
from typing import Annotated

import typer

from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2

Schema = Annotated[Path | None, typer.Option(help="File with the output's JSON schema")]
Regex = Annotated[str | None, typer.Option(help="What the whole output matches")]
Lark = Annotated[Path | None, typer.Option(help="File with the output's Lark grammar")]
Choice = Annotated[list[str] | None, typer.Option(help="One of these is the output")]


def set_form(
    sampling: inference_pb2.SamplingParams,
    schema: Path | None,
    regex: str | None,
    grammar: Path | None,
    choice: list[str] | None,
) -> None:
    """Add the form that the flags set, if any. Raises SetupError if there are several."""
    given = {"--schema": schema, "--regex": regex, "--grammar": grammar, "--choice": choice}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise SetupError(f"{' and '.join(names)} exclude each other", "give one of them")
    form = sampling.structured_output
    try:
        if schema is not None:
            form.json_schema = _read("--schema", schema)
        elif grammar is not None:
            form.grammar = _read("--grammar", grammar)
        elif regex is not None:
            form.regex = regex
        elif choice is not None:
            form.choice.texts.extend(choice)
    except ValueError as error:  # bytes that are not text
        raise SetupError(f"{names[0]}: {error}") from error


def _read(option: str, file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{option} {file} cannot be read: {error}") from error
