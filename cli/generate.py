"""`pdserve generate`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli import sampling as flags
from cli import structured
from cli.connection import Connection
from cli.requests import Answer, as_chat, ask_all, read_prompts
from pdserve.errors import RequestError, SetupError
from pdserve.prompts import Prompt
from pdserve.v1 import inference_pb2


def command(
    context: typer.Context,
    connection: Connection,
    prompt: Annotated[str | None, typer.Argument(help="The prompt")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help='JSON lines: {"prompt"}, {"messages"} or {"token_ids"}')
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once")] = 8,
    max_tokens: flags.MaxTokens = None,
    min_tokens: flags.MinTokens = 0,
    temperature: flags.Temperature = 0.0,
    seed: flags.Seed = None,
    n: flags.Choices = None,
    stop: flags.Stop = None,
    top_k: flags.TopK = 0,
    top_p: flags.TopP = None,
    min_p: flags.MinP = 0.0,
    repetition_penalty: flags.RepetitionPenalty = None,
    presence_penalty: flags.PresencePenalty = 0.0,
    frequency_penalty: flags.FrequencyPenalty = 0.0,
    logit_bias: flags.LogitBias = None,
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
    if (prompt is None) == (prompts_file is None):
        raise SetupError("give either a PROMPT or --prompts-file")
    sampling = flags.read_sampling(context)
    structured.set_form(sampling, schema, regex, grammar, choice)
    if prompts_file is not None:
        prompts = read_prompts(prompts_file, raw=raw)
        failed = asyncio.run(_run_file(connection, prompts, sampling, concurrency, as_json=as_json))
        raise typer.Exit(1 if failed else 0)
    asyncio.run(_run_one(connection, prompt or "", sampling, raw=raw, as_json=as_json))


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
        # an empty text is sent as it is, so that the router names what is wrong with it
        sent = prompt if raw or not prompt else as_chat(prompt)
        answers = await ask_all(client, sent, sampling, show)
    if streams:
        print()
        return
    for answer in answers:
        _print_answer(answer, as_json=as_json)


async def _run_file(
    connection: Connection,
    prompts: list[tuple[str, Prompt]],
    sampling: inference_pb2.SamplingParams,
    concurrency: int,
    *,
    as_json: bool,
) -> int:
    """Send all prompts; prints each answer when it is there and returns how many failed."""
    limit = asyncio.Semaphore(concurrency)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))

    async with connection.client() as client:
        with progress:
            task = progress.add_task("prompts", total=len(prompts))

            async def one(request_id: str, prompt: Prompt) -> bool:
                async with limit:
                    try:
                        answers = await ask_all(
                            client, prompt, sampling, lambda *_: None, request_id
                        )
                        for answer in answers:
                            _print_answer(answer, as_json=as_json)
                        return True
                    except RequestError as error:
                        _print_failure(request_id, error)
                        return False
                    finally:
                        progress.advance(task)

            results = await asyncio.gather(*(one(*entry) for entry in prompts))
    return results.count(False)


def _print_answer(answer: Answer, *, as_json: bool) -> None:
    name = f"{answer.request_id} {answer.number}" if answer.number else answer.request_id
    print(answer.to_json() if as_json else f"--- {name}\n{answer.text}", flush=True)


def _print_failure(request_id: str, error: RequestError) -> None:
    failure = {"reason": error.reason, "field": error.field, "message": error.message}
    print(json.dumps({"request_id": request_id, "error": failure}), flush=True)
