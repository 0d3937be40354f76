"""Tables at 40, 80 and 200 columns and in a pipe: every name is whole, and nothing is in colour."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import box
from rich.console import Console

from cli.block_ledgers import ledger_table
from cli.explanation import print_explanation, route_grid
from cli.grid import Column, Grid, Row, columns_within, plain_lines
from cli.output import print_grid, stdout_console
from cli.status import _print_tables
from cli.workers import worker_grid
from pdserve.v1 import admin_pb2, inference_pb2, ledger_pb2
from tests.unit.cli.conftest import Run
from tests.unit.cli.timed import explained

WIDTHS = [40, 80, 200, None]  # None: a pipe
NAMES = ("prefill-1023", "decode-255")
REQUEST = "req-0123456789abcdef"
LOAD = admin_pb2.WorkerLoad(
    num_running=64,
    num_waiting=10_000,
    blocks_total=100_000,
    blocks_free=12_345,
    prefill_tokens=10**12,
    output_tokens=10**12,
)
STATUS = admin_pb2.StatusResponse(
    workers=[
        admin_pb2.WorkerStatus(
            name=name,
            role=role,
            pid=4_000_000,
            state=admin_pb2.WORKER_STATE_UNREACHABLE,
            load=LOAD,
        )
        for role, name in zip(
            (admin_pb2.WORKER_ROLE_PREFILL, admin_pb2.WORKER_ROLE_DECODE), NAMES, strict=True
        )
    ]
)
LEDGERS = [
    ledger_pb2.WorkerBlocks(
        worker=NAMES[1],
        ledger=ledger_pb2.BlockLedger(
            blocks_total=100_000,
            num_holders=1,
            holders=[ledger_pb2.BlockHolder(request_id=REQUEST, host_bytes=2**40)],
        ),
    )
]
ROUTES = inference_pb2.ExplainResponse(
    request_id=REQUEST,
    routes=[
        inference_pb2.RouteCost(
            prefill_worker=NAMES[0], decode_worker=NAMES[1], queue_us=10**9, total_us=10**9
        )
    ],
    blocks=LEDGERS,
    finished=explained(REQUEST, 0).finished,
)


def set_width(monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))


SHOWN: dict[str, Callable[[], None]] = {
    "status": lambda: _print_tables(STATUS),
    "explain": lambda: print_explanation(ROUTES),
    "blocks": lambda: print_grid(stdout_console(), ledger_table(LEDGERS, "who")),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_names_are_whole_at_every_width(
    name: str,
    width: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_width(monkeypatch, width)
    SHOWN[name]()
    out = capsys.readouterr().out
    expected = {"status": NAMES, "explain": (*NAMES, REQUEST), "blocks": (NAMES[1], REQUEST)}
    for whole in expected[name]:
        assert whole in out
    assert "…" not in out
    assert "\x1b" not in out
    if width is None:
        assert "not shown" not in out
    if name == "status" and width is not None:
        table = out.splitlines()[1:]  # the first line is prose, which a terminal breaks
        assert max(len(line) for line in table if "not shown" not in line) <= width


def test_columns_that_are_left_out_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_width(monkeypatch, 80)
    _print_tables(STATUS)
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "not shown" in line]
    assert note == "not shown at this width: pid, prefill tokens, output tokens"


@pytest.mark.parametrize("width", WIDTHS)
def test_files_of_logs_are_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int | None
) -> None:
    set_width(monkeypatch, width)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    log = tmp_path / "pdserve" / "logs" / "pdserve" / NAMES[0] / "1.log"
    log.parent.mkdir(parents=True)
    log.write_text("x\n")
    assert str(log) in run("logs").out.split()
    worker, state, written, file = run("logs", "--plain").out.rstrip("\n").split("\t")
    assert (worker, state, file) == (NAMES[0], "ended", str(log))
    expected = {"worker": worker, "state": state, "written": written, "file": file}
    assert json.loads(run("logs", "--json").out) == [expected]


def test_plain_lines_have_every_cell_and_a_tab_between() -> None:
    numbers = ["64", "10000", "12345/100000", str(10**12), str(10**12)]
    assert [line.split("\t") for line in plain_lines(worker_grid(STATUS.workers))] == [
        [NAMES[0], "prefill", "4000000", "unreachable", *numbers],
        [NAMES[1], "decode", "4000000", "unreachable", *numbers],
    ]
    (route,) = plain_lines(route_grid(ROUTES))
    assert route.split("\t")[:2] == list(NAMES)
    (odd,) = plain_lines(Grid((Column("a"), Column("b")), [Row(("x\ty\nz", ""))]))
    assert odd == "x y z\t-"


@pytest.mark.parametrize(
    "args",
    [
        ["status", "--json", "--plain"],
        ["logs", "--json", "--plain"],
        ["explain", "x", "--json", "--plain"],
        ["model", "list", "--json", "--plain"],
        ["config", "show", "--json", "--plain"],
    ],
)
def test_one_form_at_a_time(run: Run, args: list[str]) -> None:
    ended = run(*args)
    assert (ended.code, "--json and --plain" in ended.line) == (2, True)


def test_other_commands_with_tables_have_all_forms(run: Run) -> None:
    for args in (["model", "list"], ["config", "show", "--effective"]):
        lines = run(*args, "--plain").out.splitlines()
        found = json.loads(run(*args, "--json").out)
        assert len(lines) == len(found) > 0
        assert len({line.count("\t") for line in lines}) == 1


names = st.text("abc-[]", min_size=1, max_size=30)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.lists(st.tuples(names, names, names), min_size=1, max_size=4),
    st.integers(10, 120),
    st.booleans(),
)
def test_no_name_is_cut_and_no_table_is_too_wide(
    cells: list[tuple[str, str, str]], width: int, boxed: bool
) -> None:
    columns = (Column("name"), Column("more", rank=1), Column("other"))
    grid = Grid(columns, [Row(row) for row in cells], box=box.SIMPLE if boxed else None)
    out = io.StringIO()
    print_grid(Console(width=width, file=out), grid)
    lines = out.getvalue().splitlines()
    for name, _, other in cells:
        assert any(name in line for line in lines)
        assert any(other in line for line in lines)
    kept = columns_within(grid, width)
    if kept is not None:
        table = lines if len(kept) == len(columns) else lines[:-1]  # the last says what is missing
        assert max(map(len, table)) <= width
