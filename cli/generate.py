"""The command `pdserve generate`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import sampling as flags
from cli import structured
from cli.batch.lines import Line, read_lines
from cli.batch.run import Batch, Printer
from cli.connection import Connection
from cli.requests import Answer, Ask, as_chat, complete, to_answers
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2

_PromptsFile = Annotated[
    Path | None, typer.Option(help="JSON lines with options of their own; see docs/use/batch.md")
]
_Ordered = Annotated[
    bool, typer.Option("--ordered", help="Answers in the file's order, not as they end")
]


def command(
    context: typer.Context,
    connection: Connection,
    prompt: Annotated[str | None, typer.Argument(help="The prompt")] = None,
    prompts_file: _PromptsFile = None,
    ordered: _Ordered = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once")] = 8,
    max_tokens: flags.MaxTokens = None,
    min_tokens: flags.MinTokens = None,
    temperature: flags.Temperature = None,
    seed: flags.Seed = None,
    n: flags.Choices = None,
    stop: flags.Stop = None,
    top_k: flags.TopK = None,
    top_p: flags.TopP = None,
    min_p: flags.MinP = None,
    repetition_penalty: flags.RepetitionPenalty = None,
    presence_penalty: flags.PresencePenalty = None,
    frequency_penalty: flags.FrequencyPenalty = None,
    logit_bias: flags.LogitBias = None,
    bad_words: flags.BadWords = None,
    allowed_token_ids: flags.AllowedTokenIds = None,
    logprobs: flags.Logprobs = None,
    prompt_logprobs: flags.PromptLogprobs = None,
    schema: structured.Schema = None,
    regex: structured.Regex = None,
    grammar: structured.Lark = None,
    choice: structured.Choice = None,
    raw: Annotated[bool, typer.Option("--raw", help="Skip the chat template")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line")] = False,
) -> None:
    """Send one prompt, or a file of them, to a running router."""
    _check_sources(prompt, prompts_file, ordered=ordered)
    sampling = flags.read_sampling(context)
    structured.set_form(sampling, schema, regex, grammar, choice)
    if prompts_file is not None:
        lines = read_lines(prompts_file, sampling, raw=raw)
        running = _run_file(connection, lines, concurrency, ordered=ordered, as_json=as_json)
        raise typer.Exit(1 if asyncio.run(running) else 0)
    asyncio.run(_run_one(connection, prompt or "", sampling, raw=raw, as_json=as_json))


def _check_sources(prompt: str | None, file: Path | None, *, ordered: bool) -> None:
    if (prompt is None) == (file is None):
        raise SetupError("give either a PROMPT or --prompts-file")
    if ordered and file is None:
        raise SetupError("--ordered goes with --prompts-file")


async def _run_one(
    connection: Connection,
    prompt: str,
    sampling: inference_pb2.SamplingParams,
    *,
    raw: bool,
    as_json: bool,
) -> None:
    streams = not as_json and sampling.n <= 1

    def show(text: str, _: int) -> None:
        if streams:
            sys.stdout.write(text)
            sys.stdout.flush()

    async with connection.client() as client:
        # an empty text is sent unchanged, so that the router reports what is wrong
        sent = prompt if raw or not prompt else as_chat(prompt)
        completion = await complete(client, Ask(sent, sampling), show)
    if streams:
        print()
        return
    for answer in to_answers(completion):
        _print_answer(answer, as_json=as_json)


async def _run_file(
    connection: Connection, lines: list[Line], concurrency: int, *, ordered: bool, as_json: bool
) -> int:
    printer = Printer(ordered=ordered)
    async with connection.client() as client:
        return await Batch(client, printer, as_json=as_json).run(lines, concurrency)


def _print_answer(answer: Answer, *, as_json: bool) -> None:
    name = f"{answer.request_id} {answer.number}" if answer.number else answer.request_id
    print(answer.to_json() if as_json else f"--- {name}\n{answer.text}", flush=True)
