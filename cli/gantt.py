"""Gantt chart of one request up to its first decode step: prefill chunks and KV transfers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from rich.text import Text

from cli.grid import Column, Grid, Row
from cli.phases import first_step_us, prefill_end_us
from pdserve.v1 import inference_pb2

_WIDE, _NARROW = 64, 26  # characters of a bar
_TABLE_WITHOUT_BARS = 68
_MAX_ROWS = 12  # of each kind of row
_STYLES = {
    "queue": "grey42",
    "prefill": "yellow",
    "copy-out": "magenta",
    "wire": "cyan",
    "wait": "grey42",
    "insert": "blue",
    "decode": "green",
}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the chart; parts are (style, start, end), from the row's start to its end."""

    name: str
    parts: tuple[tuple[str, int, int], ...]
    detail: str = ""


def gantt_table(done: inference_pb2.Finished, console_width: int) -> Grid:
    """Return a table of chunks, transfers and the first decode step, in ms from the arrival."""
    width = _WIDE if console_width >= _WIDE + _TABLE_WITHOUT_BARS else _NARROW
    rows, timings = list(_rows(done)), done.timings
    axis_us = max(row.parts[-1][2] for row in rows if row.name != "decode")
    axis_us = max(min(axis_us + axis_us // 16, timings.total_us), 1)
    columns = (
        Column(""),
        Column(f"0 to {axis_us / 1000:.1f} ms", rank=2),
        Column("start", rank=3, is_number=True),
        Column("ms", rank=1, is_number=True),
        Column("KV: copy-out + wire + wait + insert", wraps=True),
    )
    error_ms = timings.clock_error_us / 1000
    return Grid(
        columns,
        [_cells(row, axis_us, width) for row in rows],
        title=Text("up to the first decode step   ").append_text(_legend()),
        caption=f"prefill's clock is known to within {error_ms:.1f} ms" if error_ms else "",
    )


def _cells(row: _Row, axis_us: int, width: int) -> Row:
    start, end = row.parts[0][1], row.parts[-1][2]
    times = (f"{start / 1000:.1f}", f"{(end - start) / 1000:.1f}")
    return Row((row.name, _bar(row, axis_us, width), *times, row.detail))


def _rows(done: inference_pb2.Finished) -> Iterator[_Row]:
    timings, joined_us = done.timings, first_step_us(done.timings)
    asked_us = timings.pull_us or timings.queue_us
    yield _Row("queue", (("queue", 0, asked_us),), f"on {done.decode_worker}")
    if timings.pull_us:
        waits = (("queue", asked_us, max(timings.queue_us, asked_us)),)
        where = f"on {done.prefill_worker}" if done.prefill_worker else "for KV that never came"
        yield _Row("queue", waits, where)
    for number, chunk in _ends(timings.prefill_chunks):
        end_us = chunk.start_us + chunk.duration_us
        yield _Row(
            f"chunk {number}",
            (("prefill", chunk.start_us, end_us),),
            f"{chunk.num_tokens} tokens on {_place(chunk, done)}",
        )
    for number, transfer in _ends(timings.transfers):
        yield _transfer_row(number, transfer)
    if timings.transfers and joined_us is not None:
        last = timings.transfers[-1]
        ready_us = max(last.insert_start_us + last.insert_us, prefill_end_us(timings))
        yield _Row(
            "join", (("wait", ready_us, max(joined_us, ready_us)),), "waits for the next step"
        )
    yield from _decode_rows(timings)


def _transfer_row(number: int, transfer: inference_pb2.KVTransfer) -> _Row:
    copied_us = transfer.copy_out_start_us + transfer.copy_out_us
    arrived_us = copied_us + transfer.wire_us
    moments_us = (
        transfer.copy_out_start_us,
        copied_us,
        arrived_us,
        max(transfer.insert_start_us, arrived_us),
        max(transfer.insert_start_us, arrived_us) + transfer.insert_us,
    )
    names = ("copy-out", "wire", "wait", "insert")
    parts = tuple(zip(names, moments_us, moments_us[1:], strict=False))
    took = "+".join(f"{(end - start) / 1000:.1f}" for _, start, end in parts)
    return _Row(f"KV {number}", parts, f"{transfer.num_bytes / 2**20:.1f} MiB: {took}")


def _decode_rows(timings: inference_pb2.Timings) -> Iterator[_Row]:
    steps = timings.decode_steps
    if not steps.start_us:
        return
    start_us, end_us = steps.start_us[0], steps.start_us[0] + steps.duration_us[0]
    beside = f"{steps.num_sequences[0]} sequences, {steps.num_tokens[0]} tokens"
    yield _Row("first step", (("decode", start_us, end_us),), beside)
    whole = (("decode", start_us, timings.total_us),)
    yield _Row("decode", whole, f"{steps.num_steps} steps; goes on to the right")


def _place(chunk: inference_pb2.PrefillChunk, done: inference_pb2.Finished) -> str:
    return done.prefill_worker if chunk.is_remote else done.decode_worker


def _ends(items: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Number the items from 1; of more than _MAX_ROWS keep the first and the last."""
    numbered, half = list(enumerate(items, 1)), _MAX_ROWS // 2
    yield from numbered if len(numbered) <= _MAX_ROWS else numbered[:half] + numbered[-half:]


def _bar(row: _Row, axis_us: int, width: int) -> Text:
    """Draw a row; each part gets at least one cell, so that every part is visible."""
    cells = [""] * width
    for name, start_us, end_us in row.parts:
        first = min(start_us * width // axis_us, width - 1)
        last = min(max(-(-end_us * width // axis_us), first + 1), width)
        if end_us > start_us:
            cells[first:last] = [_STYLES[name]] * (last - first)
    text = Text()
    for style, group in groupby(cells):
        text.append(("█" if style else " ") * len(list(group)), style)
    return text


def _legend() -> Text:
    text = Text()
    for name, style in _STYLES.items():
        if name != "wait":  # drawn in the same colour as "queue"
            text.append("█ ", style)
            text.append(f"{name}  ")
    return text
