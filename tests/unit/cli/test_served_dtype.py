"""Reports of the served dtype and its reason, at a deployment's start and in its status."""

import json

import pytest

from cli.serve import ready_lines
from cli.status import dtype_lines, to_dict
from deploy.endpoints import Endpoints
from pdserve.v1 import admin_pb2
from tests.integration.support.processes import READY

WHY = "the fastest on baseline"


@pytest.mark.parametrize(
    ("openai_port", "openai"), [(None, ""), (8000, " openai=https://127.0.0.1:8000/v1")]
)
def test_the_ready_line_ends_with_the_dtype_and_the_next_says_why(
    openai_port: int | None, openai: str
) -> None:
    endpoints = Endpoints("127.0.0.1", 50051, 8080, openai_port, dtype="float32", dtype_reason=WHY)
    first, second = ready_lines("a-model", endpoints, "https").splitlines()
    where = "grpc=127.0.0.1:50051 http=127.0.0.1:8080"
    assert first == f"pdserve ready: model=a-model {where}{openai} dtype=float32"
    assert second == f"float32: {WHY}"
    assert READY.match(first)


def test_the_ready_lines_say_what_fits_into_kv_memory() -> None:
    endpoints = Endpoints("127.0.0.1", 50051, 8080, kv_capacity="16 sequences of 8,192 tokens")
    (line,) = ready_lines("a-model", endpoints, "https").splitlines()[2:]
    assert line == "KV memory of a decode worker: 16 sequences of 8,192 tokens"


def worker(name: str, dtype: str = "float32", reason: str = WHY) -> admin_pb2.WorkerStatus:
    return admin_pb2.WorkerStatus(name=name, dtype=dtype, dtype_reason=reason)


def test_status_says_once_what_all_workers_have() -> None:
    assert dtype_lines([worker("prefill-0"), worker("decode-0")]) == [f"float32: {WHY}"]
    assert dtype_lines([worker("decode-0", reason="")]) == ["float32"]


def test_status_names_the_workers_where_they_have_other_reasons() -> None:
    never_reached = worker("decode-1", "", "")
    asked = worker("decode-0", reason="engine.dtype")
    assert dtype_lines([worker("prefill-0"), asked, never_reached]) == [
        f"float32: {WHY} (prefill-0)",
        "float32: engine.dtype (decode-0)",
    ]


def test_the_json_has_both_for_each_worker() -> None:
    status = json.dumps(to_dict(admin_pb2.StatusResponse(workers=[worker("decode-0")])))
    (found,) = json.loads(status)["workers"]
    assert (found["dtype"], found["dtype_reason"]) == ("float32", WHY)
