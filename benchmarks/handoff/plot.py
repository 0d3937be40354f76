"""Plot of the gaps between tokens over time, one panel a server.

Usage: python -m benchmarks.handoff.plot draws results/handoff.png from results/handoff.json.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set first
from matplotlib.axes import Axes
from pydantic import TypeAdapter

from benchmarks.environment import RESULTS

_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps in ms, and their ends in seconds since the start."""

    at_s: list[float]
    gap_ms: list[float]


@dataclass(frozen=True, slots=True)
class _Figures:
    flood: dict[str, Gaps]  # by system


@dataclass(frozen=True, slots=True)
class _File:
    figures: _Figures


def largest_gaps(gaps: list[tuple[float, float]]) -> Gaps:
    """Return the largest of each 50 ms of (seconds, ms): fewer points, and no peak is lost."""
    largest: dict[int, tuple[float, float]] = {}
    for at_s, gap_ms in gaps:
        place = int(at_s / _EVERY_S)
        if place not in largest or gap_ms > largest[place][1]:
            largest[place] = (at_s, gap_ms)
    kept = [largest[place] for place in sorted(largest)]
    return Gaps([round(at_s, 3) for at_s, _ in kept], [round(gap_ms, 2) for _, gap_ms in kept])


def plot(json_path: Path) -> Path:
    """Draw a result file's picture beside it. Raises ValidationError for a file without gaps."""
    floods = TypeAdapter(_File).validate_json(json_path.read_bytes()).figures.flood
    figure, panels = plt.subplots(
        *(len(floods), 1),
        figsize=(10, 2.4 * len(floods)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (axes,), (name, gaps) in zip(panels, floods.items(), strict=True):
        _draw(axes, name, gaps)
    # all panels share this limit; set earlier, it would cut off the peaks of later panels
    panels[0][0].set_ylim(5, 1.3 * max(gap for gaps in floods.values() for gap in gaps.gap_ms))
    panels[-1][0].set_xlabel("seconds; a prompt of 2,000 tokens arrives every 2 s")
    figure.suptitle(
        "Gaps between the tokens of 8 users, the largest of each 50 ms (lower and flatter is better)",
        fontsize=11,
    )
    path = json_path.with_suffix(".png")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _draw(axes: Axes, name: str, gaps: Gaps) -> None:
    colour = "#1f6f8b" if name.startswith("pdserve") else "#8a8a8a"
    axes.scatter(gaps.at_s, gaps.gap_ms, s=8, color=colour, alpha=0.7, linewidths=0)
    axes.set_title(name, loc="left", fontsize=10)
    axes.set_ylabel("gap, ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yscale("log")


if __name__ == "__main__":
    print(plot(RESULTS / "handoff.json"))
