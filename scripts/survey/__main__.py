"""Survey of all model types, or of those named: `make model-survey` runs it and writes the table."""

from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import write_result
from scripts.survey.forked import run_all
from scripts.survey.kinds import all_kinds
from scripts.survey.outcome import RESULT, Outcome, known_outcomes, to_row
from scripts.survey.table import PAGE, markdown, shares
from scripts.survey.trial import run_trial


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="Model types; none: all")] = None,
    children: Annotated[int, typer.Option(min=1, help="Trials at one time")] = 2,
) -> None:
    """Try the model types and write docs/use/model-table.md; of those named alone, replace the rows."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(stderr=True)
    found = {} if kinds is None else known_outcomes()
    found |= {outcome.kind: outcome for outcome in _try(kinds or all_kinds(), children, console)}
    outcomes = [found[kind] for kind in sorted(found)]
    for line in shares(outcomes):
        print(line)
    PAGE.write_text(markdown(outcomes), "utf-8")
    write_result(RESULT, [to_row(outcome) for outcome in outcomes])


def _try(kinds: list[str], children: int, console: Console) -> list[Outcome]:
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    outcomes = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("model types", total=len(kinds))
        for outcome in run_all(kinds, run_trial, children):
            outcomes.append(outcome)
            line = f"{outcome.kind}: {outcome.verdict} {outcome.path} {outcome.reason}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            bar.update(task, advance=1, description=f"{outcome.kind}: {outcome.verdict}")
    return outcomes


if __name__ == "__main__":
    typer.run(main)
