"""Hardware and versions of a measurement, written into every result file."""

import importlib.metadata
import json
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("torch", "transformers", "ray", "grpcio", "numba", "numpy")
_LIST_OF_NUMBERS = re.compile(r"\[\n([-+.,\deE\s]+)\]")


def describe() -> dict[str, object]:
    """Return hardware, versions, date and command line."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join([_command_name(), *map(_without_folder, sys.argv[1:])]),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def write_result(name: str, figures: object) -> Path:
    """Write benchmarks/results/NAME.json; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"environment": describe(), "figures": figures}, indent=2)
    path.write_text(_LIST_OF_NUMBERS.sub(_on_one_line, text) + "\n")
    return path


def _on_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"


def _command_name() -> str:
    if Path(sys.argv[0]).stem == "pdserve":
        return "pdserve"
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        return f"python {Path(sys.argv[0]).name}"
    return f"python -m {spec.name.removesuffix('.__main__')}"


def _without_folder(argument: str) -> str:
    """Return an argument whose path, if it is one, has no folders: those are of one machine."""
    option, equals, value = argument.rpartition("=")
    return option + equals + Path(value).name if value.startswith("/") else argument


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # not every benchmark needs every package
        return "not installed"


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
