"""Judgement of `transformers`' report on a checkpoint: it fills missing tensors with random numbers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

# caches and masks that old checkpoints hold as if they were weights
_HARMLESS = re.compile(
    r"(^|\.)(rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)"
    r"|(attn|attention|self_attn)\.(masked_bias|bias)|position_ids)$"
)

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Tensor of another shape than the model's."""

    name: str
    stored: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadingReport:
    """Report of tensor names, in the order in which a reader counts them: layer 2 before layer 10."""

    missing: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    unused: tuple[str, ...]

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> Self:
        """Read the report that `from_pretrained(output_loading_info=True)` returns beside the model."""
        mismatched = [
            Mismatch(name, tuple(stored), tuple(wanted))
            for name, stored, wanted in report["mismatched_keys"]
        ]
        return cls(
            missing=_sorted(report["missing_keys"]),
            mismatched=tuple(sorted(mismatched, key=lambda mismatch: _counted(mismatch.name))),
            unused=_sorted(n for n in report["unexpected_keys"] if not _HARMLESS.search(n)),
        )


def check_report(
    report: LoadingReport, folder: Path, head: str | None, *, allow_unused: bool
) -> None:
    """Raise SetupError, naming the first tensor, unless the folder held exactly the model's weights.

    `head` is the name of the language-model head's weight. With `allow_unused`, tensors that nothing uses are
    only logged.
    """
    if report.missing:
        remedy = "Copy the whole folder again, or save the whole model with save_pretrained"
        if head in report.missing and len(report.missing) == 1:
            remedy = "Give the causal LM: this is the body of one, without its head"
        others = f", and nothing uses {_naming(report.unused)}" if report.unused else ""
        raise SetupError(f"{folder} lacks {_naming(report.missing)}{others}", remedy)
    for wrong in report.mismatched[:1]:
        raise SetupError(
            f"{folder}: {wrong.name} has the shape {list(wrong.stored)}, "
            f"config.json asks for {list(wrong.wanted)}",
            "Give the config.json that belongs to these weights",
        )
    if report.unused and allow_unused:
        _log.warning("weights_unused", num_tensors=len(report.unused), first=report.unused[0])
    elif report.unused:
        raise SetupError(
            f"{folder}: nothing uses {_naming(report.unused)}",
            "Check that config.json belongs to these weights; "
            "engine.allow_unused_weights (--allow-unused-weights) serves without them",
        )


def _naming(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return f"the tensor {names[0]}"
    return f"{len(names)} tensors, first {names[0]}"


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=_counted))


def _counted(name: str) -> list[tuple[int, str]]:
    """Return a sort key that reads digits as numbers."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
