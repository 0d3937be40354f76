"""Tables, results file and picture of a run."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be set first
from rich.console import Console
from rich.table import Table

from benchmarks.gpu.comparison import OURS, THEIRS, Comparison
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.steps import Step

DECODE_GOAL, PREFILL_GOAL, PEER_GOAL = 0.75, 0.60, 2.0
DECODE_GOAL_BATCH = 64
_COLOURS = ("#1f6f8b", "#b8b8b8")


@dataclass(slots=True)
class Report:
    """All results of a run; decode steps are listed by variant of the engine."""

    machine: Machine
    context: int
    comparison: Comparison
    left_out: list[str]
    decode: dict[str, list[Step]] = field(default_factory=dict)
    prefill: list[Step] = field(default_factory=list)

    @property
    def is_of_cpu(self) -> bool:
        """True if no GPU was measured."""
        return self.machine.facts["device"] == "cpu"

    def to_json(self) -> dict[str, object]:
        """Return the values for the results file."""
        return {
            "machine": asdict(self.machine),
            "context": self.context,
            "decode": {name: [s.to_json() for s in steps] for name, steps in self.decode.items()},
            "prefill": [step.to_json() for step in self.prefill],
            "requests": self.comparison.to_json(),
            "left out": self.left_out,
        }

    def print(self, console: Console) -> None:
        """Print all tables, and the parts that were left out."""
        console.print(_machine_table(self.machine))
        title = f"decode at context {self.context} over the memory roofline"
        goal = f"goal: {DECODE_GOAL:.0%} at batch {DECODE_GOAL_BATCH}"
        console.print(_step_table(f"{title} ({goal})", "batch", self.decode))
        title = f"prefill over the matmul rate (goal: {PREFILL_GOAL:.0%})"
        console.print(_step_table(title, "tokens", {"": self.prefill}))
        _print_shares(console, self)
        _print_comparison(console, self.comparison)
        for part in self.left_out:
            console.print(f"left out, the time was up: {part}")

    def plot(self, path: Path) -> None:
        """Draw the fractions of the roofline by batch size."""
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        width = 0.8 / max(1, len(self.decode))
        for number, (name, steps) in enumerate(self.decode.items()):
            places = [place + number * width for place in range(len(steps))]
            values = [100 * step.fraction for step in steps]
            bars = axes.bar(places, values, width, label=name, color=_COLOURS[number % 2])
            axes.bar_label(bars, fmt="%.0f")
        sizes = [step.size for step in max(self.decode.values(), key=len, default=[])]
        axes.set_xticks([place + 0.4 - width / 2 for place in range(len(sizes))], map(str, sizes))
        axes.axhline(100 * DECODE_GOAL, color="#444444", linewidth=0.8, linestyle="--")
        axes.set_xlabel(f"sequences in the batch, context {self.context}")
        axes.set_ylabel("% of the memory roofline")
        axes.set_title(f"Decode step, 8B Llama shape, {self.machine.facts['device']}")
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _machine_table(machine: Machine) -> Table:
    table = Table("machine", "", title="measured rates, and what they were measured on")
    for name, rate in (("copy", machine.copy_rate), ("read", machine.read_rate)):
        table.add_row(f"memory, {name}", f"{rate / 1e9:.1f} GB/s")
    for name, rate in (("a layer's", machine.layer_rate), ("square", machine.square_rate)):
        table.add_row(f"products, {name}, bfloat16", f"{rate / 1e12:.2f} TFLOP/s")
    for name, fact in machine.facts.items():
        table.add_row(name, fact)
    return table


def _step_table(title: str, size: str, variants: dict[str, list[Step]]) -> Table:
    columns = ("limit ms", "step ms, host", "step ms, device", "of the limit, host", "device")
    table = Table("engine", size, *columns, title=title)
    for name, steps in variants.items():
        for step in steps:
            spans = (step.limit_s, step.times.host_s, step.times.device_s)
            table.add_row(
                name,
                str(step.size),
                *(f"{1000 * span:.3f}" for span in spans),
                f"{step.fraction:.1%}",
                f"{step.device_fraction:.1%}",
            )
    return table


def _print_comparison(console: Console, comparison: Comparison) -> None:
    title = f"{len(comparison.works)} requests, all there at the start; medians"
    table = Table("system", "runs", "s", "output tokens/s", "all tokens/s", title=title)
    for name in (OURS, THEIRS):
        runs = comparison.runs[name]
        if runs:
            bound = "" if comparison.is_whole(name) else "< "
            rates = (comparison.output_rate(name), comparison.total_rate(name))
            cells = (f"{bound}{rate:.0f}" for rate in rates)
            table.add_row(name, str(len(runs)), f"{comparison.seconds(name):.2f}", *cells)
    console.print(table)
    if comparison.peer_attention:
        console.print(f"attention that {THEIRS} chose: {comparison.peer_attention}")
    if comparison.peer_failure:
        console.print(f"{THEIRS} failed: {comparison.peer_failure}")
    if comparison.ratio is not None:
        bound = "" if comparison.is_whole(THEIRS) else "more than "
        ratio = f"{bound}{comparison.ratio:.2f}"
        console.print(f"{OURS} over {THEIRS}: {ratio} (goal: {PEER_GOAL:.0f})")


def _print_shares(console: Console, report: Report) -> None:
    """Print the shares of device time; nothing on a CPU."""
    steps = {f"decode {s.size}, {name}": s for name, found in report.decode.items() for s in found}
    steps |= {f"prefill {step.size}": step for step in report.prefill}
    kinds = {share.kind for step in steps.values() for share in step.shares}
    if not kinds:
        return
    table = Table("step", *sorted(kinds), title="kernels of a step: ms (how many)")
    for name, step in steps.items():
        shares = sorted(step.shares, key=lambda share: share.kind)
        table.add_row(name, *(f"{1000 * s.seconds:.2f} ({s.count:.0f})" for s in shares))
    console.print(table)
