"""Writes the dashboards: `make dashboards` runs it, a test compares what it would write."""

import json
from pathlib import Path

from scripts.dashboards.model import to_json
from scripts.dashboards.overview import OVERVIEW
from scripts.dashboards.workers import WORKERS

FOLDER = Path(__file__).parents[2] / "deploy" / "observability" / "grafana" / "dashboards"
BOARDS = {"overview.json": OVERVIEW, "workers.json": WORKERS}


def texts() -> dict[str, str]:
    """Return the files' contents by name."""
    return {name: json.dumps(to_json(board), indent=2) + "\n" for name, board in BOARDS.items()}


def main() -> None:
    """Write the files."""
    for name, text in texts().items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
