"""Plot of attainment over the offered rate, one panel a case, one line a system.

Usage: python -m benchmarks.goodput.plot NAME draws results/NAME.png from results/NAME.json.
"""

import statistics
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import typer
from matplotlib import pyplot as plt  # the backend must be set first
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator

from benchmarks.environment import RESULTS
from benchmarks.goodput.result import GoodputResult, read_result
from benchmarks.goodput.search import TARGET

_COLOURS = ("#1f6f8b", "#e07b39", "#8a8a8a", "#7a5195")


def main(name: str) -> None:
    """Draw results/NAME.png."""
    print(plot(RESULTS / f"{name}.json"))


def plot(json_path: Path) -> Path:
    """Draw a result file's picture beside it."""
    result = read_result(json_path)
    figure, panels = plt.subplots(
        1,
        len(result.medians),
        figsize=(5.2 * len(result.medians), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, case in zip(panels[0], result.medians, strict=True):
        _draw(axes, result, case)
    panels[0][0].set_ylabel("requests that meet TTFT and TPOT, %")
    panels[0][0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle("Where attainment crosses 90 %: goodput (right is better)", fontsize=11)
    path = json_path.with_suffix(".png")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def curve(result: GoodputResult, case: str, system: str) -> list[tuple[float, float]]:
    """Return (requests/s, attainment in %) of every measured rate, medians over the rounds."""
    shares: dict[float, list[float]] = {}
    for search in result.searches:
        if (search.case, search.system) == (case, system):
            for probe in search.probes:
                shares.setdefault(probe.rate_per_s, []).append(100 * probe.share)
    return [(rate, statistics.median(shares[rate])) for rate in sorted(shares)]


def _draw(axes: Axes, result: GoodputResult, case: str) -> None:
    for number, (system, goodput_per_s) in enumerate(result.medians[case].items()):
        colour = _COLOURS[number % len(_COLOURS)]
        rates, shares = zip(*curve(result, case, system), strict=True)
        axes.plot(rates, shares, marker="o", markersize=4, color=colour, label=system)
        axes.plot([goodput_per_s], [100 * TARGET], marker="|", markersize=16, color=colour)
    axes.axhline(100 * TARGET, color="#cccccc", linewidth=1, zorder=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1, 2**0.5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%.2g"))
    axes.set_title(case, loc="left", fontsize=10)
    axes.set_xlabel("requests/s offered")
    axes.set_ylim(0, 103)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    typer.run(main)
