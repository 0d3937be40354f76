"""Gaps between tokens over time, one panel a server."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend comes first

Gaps = dict[str, list[tuple[float, float]]]


def plot_gaps(gaps: Gaps, path: Path) -> None:
    """`gaps` of each server: (seconds since the start, ms)."""
    figure, panels = plt.subplots(
        len(gaps), 1, figsize=(10, 2.4 * len(gaps)), sharex=True, sharey=True, layout="constrained"
    )
    for axes, (name, points) in zip(
        panels if len(gaps) > 1 else [panels], gaps.items(), strict=True
    ):
        colour = "#1f6f8b" if name.startswith("pdserve") else "#8a8a8a"
        axes.scatter(*zip(*points, strict=True), s=5, color=colour, alpha=0.5, linewidths=0)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_ylabel("gap, ms")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yscale("log")
        axes.set_ylim(bottom=5)
    axes.set_xlabel("seconds; a prompt of 2,000 tokens arrives every 2 s")
    figure.suptitle("Gaps between the tokens of 8 users (lower and flatter is better)", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
