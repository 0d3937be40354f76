"""Picture of the results of `benchmarks.peers`."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set first
from matplotlib.axes import Axes

Medians = dict[str, dict[str, dict[str, float]]]

_OURS, _THEIRS = "#1f6f8b", "#b8b8b8"


def plot(medians: Medians, path: Path) -> None:
    """Draw the throughput of all systems, and the inter-token latency of the servers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    loads = {name: scenarios["32 users"] for name, scenarios in medians.items()}
    _bars(left, {name: values["total tok/s"] for name, values in loads.items()})
    left.set_title("Total tokens/s, 32 users (higher is better)")
    servers = {name: values for name, values in loads.items() if "ITL p99 ms" in values}
    _latencies(right, servers)
    right.set_title("Inter-token latency, 32 users (lower is better)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axes: Axes, values: dict[str, float]) -> None:
    names = list(values)[::-1]
    colours = [_OURS if name.startswith("pdserve") else _THEIRS for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)


def _latencies(axes: Axes, servers: dict[str, dict[str, float]]) -> None:
    names = list(servers)[::-1]
    for row, name in enumerate(names):
        colour = _OURS if name.startswith("pdserve") else _THEIRS
        p50, p99 = servers[name]["ITL p50 ms"], servers[name]["ITL p99 ms"]
        axes.plot([p50, p99], [row, row], color=colour, linewidth=5, solid_capstyle="round")
        axes.annotate(f"{p50:.0f}", (p50, row), (0, 8), textcoords="offset points", ha="center")
        axes.annotate(f"{p99:.0f}", (p99, row), (0, 8), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1.08 * max(values["ITL p99 ms"] for values in servers.values()))
    axes.set_xlabel("ms, from median to 99th percentile")
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.spines[["top", "right"]].set_visible(False)
