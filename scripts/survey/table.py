"""Page of the survey: a table of all model types, and how many of them are served."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import transformers

from scripts.survey.kinds import architecture, is_multimodal
from scripts.survey.outcome import VERDICTS, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "use" / "model-table.md"
_MEANINGS = {
    "equal": "greedy tokens are those of `transformers`, one for one",
    "refused": "the workers refuse it when they start, with the reason given",
    "differs": "it gives other tokens: a fault of ours",
    "failed": "it ends with an error that is no clear refusal: a fault of ours",
    "not built": "no tiny model of it runs in `transformers` alone",
}
_HEAD = """# Every model type

`make model-survey` writes this page. It tries every model type of `transformers` {version} that
writes text: causal LMs, and models that also see or hear, for their text. Each is made tiny and
random. It runs once by the modules of `transformers`, without a cache. Then our loader and a
decode worker's engine run it. Both are in float32, ours with the `reference` backend. Prompts of
5, 70 and 300 tokens run side by side, in steps of at most 48 tokens. [Models](models.md) says
more of each kind.

"""


def shares(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a line for causal LMs and one for multimodal models: the equal ones' share of those built."""
    for name, is_seeing in (("causal LMs", False), ("multimodal models, for text", True)):
        group = [o for o in outcomes if is_multimodal(o.kind) == is_seeing]
        counts = Counter(o.verdict for o in group)
        built = len(group) - counts["not built"]
        share = counts["equal"] / built if built else 0.0
        each = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
        yield f"{name}: {share:.0%} of {built} are equal ({each})"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the page."""
    text = _HEAD.format(version=transformers.__version__)
    text += "\n".join(f"- {line}" for line in shares(outcomes)) + "\n\n"
    found = {outcome.verdict for outcome in outcomes}
    text += "| verdict | meaning |\n|---|---|\n"
    text += "".join(f"| {v} | {_MEANINGS[v]} |\n" for v in VERDICTS if v in found)
    text += "\n| model type | architecture | verdict | path, or the reason |\n|---|---|---|---|\n"
    return text + "".join(map(_row, outcomes))


def _row(outcome: Outcome) -> str:
    last = outcome.path if outcome.verdict == "equal" else _cell(outcome.reason)
    return f"| `{outcome.kind}` | {architecture(outcome.kind)} | {outcome.verdict} | {last} |\n"


def _cell(text: str) -> str:
    """Return the text as code in a cell of a table."""
    plain = text.replace("|", "/").replace("`", "'")
    return f"`{plain}`" if plain else ""
