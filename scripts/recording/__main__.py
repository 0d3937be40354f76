"""Records `pdserve demo`, and draws the recording for the README.

Usage: `python -m scripts.recording record` writes docs/img/demo.cast; `draw` writes demo.svg from it.
A test compares the picture with what `draw` would write.
"""

import sys
from pathlib import Path

import typer

from scripts.recording.cast import read, write
from scripts.recording.draw import draw
from scripts.recording.record import Plan, record

CAST = Path(__file__).parents[2] / "docs" / "img" / "demo.cast"
PICTURE = CAST.with_suffix(".svg")
_TITLE = "pdserve demo: four prompts at once, with prefill and decode in separate processes"
_PLAN = Plan(num_columns=100, num_rows=43, begin="ready in", end="press Enter")
app = typer.Typer(no_args_is_help=True)


@app.command("record")
def record_demo() -> None:
    """Run `pdserve demo` from the moment when its workers are ready, and write its screens."""
    command = [sys.executable, "-m", "pdserve", "demo"]
    CAST.parent.mkdir(exist_ok=True)
    write(record(command, _TITLE, _PLAN), CAST)


@app.command("draw")
def draw_demo() -> None:
    """Draw the recording."""
    PICTURE.write_text(draw(read(CAST)), "utf-8")


if __name__ == "__main__":
    app()
