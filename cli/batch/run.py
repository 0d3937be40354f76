"""Sender of a file's requests: keeps `concurrency` of them in flight and prints the answers.

1. Unordered output prints each answer when it is complete; ordered output waits for earlier lines.
2. A request that fails has an answer too: the error is printed in its place, and the others go on.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.batch.lines import Line
from cli.batch.openai_answers import describe_completion, describe_error
from cli.progress_columns import EndColumn, RateColumn
from cli.requests import complete, to_answers
from pdserve.client import AsyncClient
from pdserve.completion import Completion
from pdserve.errors import RequestError


class Printer:
    """Prints complete answers on stdout, as they arrive or in the order of their lines."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._next = 0
        self._waiting: dict[int, str] = {}

    def put(self, place: int, text: str) -> None:
        """Take the answer of a place, counted from 0; each place comes once."""
        if not self._ordered:
            print(text, flush=True)
            return
        self._waiting[place] = text
        while (head := self._waiting.pop(self._next, None)) is not None:
            print(head, flush=True)
            self._next += 1


class Batch:
    """One run over the lines of a file."""

    def __init__(self, client: AsyncClient, printer: Printer, *, as_json: bool) -> None:
        self._client = client
        self._printer = printer
        self._as_json = as_json
        self._model = ""
        self._num_failed = 0

    async def run(self, lines: Sequence[Line], concurrency: int) -> int:
        """Send all lines; return how many failed. Raises RequestError if none can be sent."""
        await self._prepare(lines)
        todo = iter(enumerate(lines))
        with _progress() as progress:
            task = progress.add_task("prompts", total=len(lines), failed=0)

            def advance() -> None:
                progress.update(task, advance=1, failed=self._num_failed)

            async def work() -> None:
                for place, line in todo:  # a shared iterator: each free worker takes the next line
                    self._printer.put(place, await self._answer(line))
                    advance()

            await asyncio.gather(*(work() for _ in range(min(concurrency, len(lines)))))
        return self._num_failed

    async def _prepare(self, lines: Sequence[Line]) -> None:
        """Prepare lines of OpenAI's form: find the model's name; default the temperature to 1."""
        of_openai = [line for line in lines if line.openai is not None]
        if not of_openai:
            return
        (model, *_) = await self._client.models()
        self._model = model.name
        for line in of_openai:
            sampling = line.ask.sampling
            if not (
                sampling.HasField("temperature") or model.sampling_defaults.HasField("temperature")
            ):
                sampling.temperature = 1.0

    async def _answer(self, line: Line) -> str:
        try:
            completion = await complete(self._client, line.ask)
        except RequestError as error:
            self._num_failed += 1
            return _describe_error(line, error)
        if line.openai is not None:
            return describe_completion(line.openai, self._model, completion)
        return _describe(line, completion, as_json=self._as_json)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        RateColumn(),
        EndColumn(),
        console=console,
        disable=not console.is_terminal,
        # without this, rich would redirect printed answers to stderr, beside the bar
        redirect_stdout=sys.stdout.isatty(),
    )


def _describe(line: Line, completion: Completion, *, as_json: bool) -> str:
    answers = to_answers(completion)
    if as_json:
        return "\n".join(answer.to_json(line.number) for answer in answers)
    title = f"--- line {line.number} {completion.request_id}"
    return "\n".join(
        f"{title}{f' {answer.number}' if answer.number else ''}\n{answer.text}"
        for answer in answers
    )


def _describe_error(line: Line, error: RequestError) -> str:
    if line.openai is not None:
        return describe_error(line.openai, error)
    failure = {"reason": error.reason, "field": error.field, "message": error.message}
    said = {"request_id": line.ask.request_id, "line": line.number, "error": failure}
    return json.dumps(said, ensure_ascii=False)
