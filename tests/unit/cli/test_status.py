"""Output of `pdserve status`: load is shown of workers that the router is connected to."""

import pytest

from cli.status import _print_tables, to_dict
from pdserve.v1 import admin_pb2

LOAD = admin_pb2.WorkerLoad(num_running=3, num_waiting=2, blocks_total=16, blocks_free=5, steps=7)
STATUS = admin_pb2.StatusResponse(
    workers=[
        admin_pb2.WorkerStatus(
            name="decode-0",
            role=admin_pb2.WORKER_ROLE_DECODE,
            state=admin_pb2.WORKER_STATE_READY,
            load=LOAD,
        ),
        admin_pb2.WorkerStatus(
            name="decode-1",
            role=admin_pb2.WORKER_ROLE_DECODE,
            state=admin_pb2.WORKER_STATE_UNREACHABLE,
        ),
    ]
)


def test_the_json_of_a_worker_without_a_connection_has_no_load() -> None:
    workers = to_dict(STATUS)["workers"]
    assert isinstance(workers, list)
    there, gone = workers
    assert there["sequences"] == {"running": 3, "waiting": 2}
    assert (there["blocks"]["free"], there["counters"]["steps"]) == (5, 7)
    assert (gone["sequences"], gone["blocks"], gone["counters"]) == (None, None, None)
    assert there.keys() == gone.keys()


def test_the_table_of_a_worker_without_a_connection_has_dashes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _print_tables(STATUS)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    there, gone = (next(row for row in rows if name in row) for name in ("decode-0", "decode-1"))
    assert there[-5:] == ["3", "2", "5/16", "0", "0"]
    assert gone[-5:] == ["-"] * 5
