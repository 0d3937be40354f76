"""Waterfall of requests: bars on one time axis that show where the time went."""

from collections.abc import Sequence

from rich.text import Text

from cli.grid import Column, Grid, Row
from cli.phases import HANDOFF_PHASES, phases
from pdserve.v1 import inference_pb2

_WIDE, _NARROW = 46, 18  # characters of a bar; with the narrow one the table fits 80 columns
_TABLE_WITHOUT_BARS = 60
_STYLES = {"queue": "grey42", "prefill": "yellow", "hand-off": "magenta", "decode": "green"}


_COLUMNS = (
    Column("request"),
    Column("", rank=1),
    *(
        Column(name, rank=rank, is_number=True, style=_STYLES.get(name, ""))
        for name, rank in (
            ("queue", 7),
            ("chunks", 8),
            ("prefill", 4),
            ("first", 6),
            ("hand-off", 5),
            ("decode", 3),
            ("total", 2),
        )
    ),
)


def waterfall_table(rows: Sequence[tuple[str, inference_pb2.Finished]], console_width: int) -> Grid:
    """Return one row per request: title, bar and milliseconds; all bars share one scale."""
    longest_us = max((done.timings.total_us for _, done in rows), default=1)
    width = _WIDE if console_width >= _WIDE + _TABLE_WITHOUT_BARS else _NARROW
    heading = Text("where the time went, in ms   ").append_text(legend())
    found = []
    for title, done in rows:
        t = done.timings
        prefill_us = sum(chunk.duration_us for chunk in t.prefill_chunks)
        chunks = str(len(t.prefill_chunks))
        numbers = (t.queue_us, prefill_us, t.first_token_us, t.handoff_us, t.decode_us, t.total_us)
        queue, *others = [f"{us / 1000:.0f}" for us in numbers]
        found.append(Row((title, bar(t, longest_us, width), queue, chunks, *others)))
    return Grid(_COLUMNS, found, title=heading)


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
