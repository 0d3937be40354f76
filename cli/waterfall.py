"""Waterfall of requests: bars on one time axis that show where the time went."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from cli.phases import HANDOFF_PHASES, phases
from pdserve.v1 import inference_pb2

_WIDE, _NARROW = 46, 18  # characters of a bar; with the narrow one the table fits 80 columns
_TABLE_WITHOUT_BARS = 60
_STYLES = {"queue": "grey42", "prefill": "yellow", "hand-off": "magenta", "decode": "green"}


def waterfall_table(
    rows: Sequence[tuple[str, inference_pb2.Finished]], console_width: int
) -> Table:
    """Return one row per request: title, bar and milliseconds; all bars share one scale."""
    longest_us = max((done.timings.total_us for _, done in rows), default=1)
    width = _WIDE if console_width >= _WIDE + _TABLE_WITHOUT_BARS else _NARROW
    heading = Text("where the time went, in ms   ").append_text(legend())
    table = Table(
        title=heading, title_justify="left", title_style="", box=None, padding=(0, 1, 0, 0)
    )
    table.add_column("request", no_wrap=True)
    table.add_column("", width=width, no_wrap=True)
    for name in ("queue", "chunks", "prefill", "first", "hand-off", "decode", "total"):
        table.add_column(name, justify="right", style=_STYLES.get(name, ""), no_wrap=True)
    for title, done in rows:
        t = done.timings
        prefill_us = sum(chunk.duration_us for chunk in t.prefill_chunks)
        chunks = str(len(t.prefill_chunks))
        numbers = (t.queue_us, prefill_us, t.first_token_us, t.handoff_us, t.decode_us, t.total_us)
        queue, *others = [f"{us / 1000:.0f}" for us in numbers]
        table.add_row(title, bar(t, longest_us, width), queue, chunks, *others)
    return table


def legend() -> Text:
    """Return the legend of the colours."""
    text = Text()
    for name, style in _STYLES.items():
        text.append("█ ", style)
        text.append(f"{name}  ")
    return text


def bar(timings: inference_pb2.Timings, longest_us: int, width: int) -> Text:
    """Return a request's phases from its arrival; `longest_us` fills `width` characters."""
    text, drawn = Text(), 0
    for phase in phases(timings):
        end = min(round(phase.end_us / longest_us * width), width)
        name = "hand-off" if phase.name in HANDOFF_PHASES else phase.name
        text.append("█" * max(end - drawn, 0), _STYLES[name])
        drawn = max(drawn, end)
    return text
