import json

import pytest

from cli import explain
from cli.connection import Connection
from pdserve.v1 import inference_pb2

ANSWER = inference_pb2.ExplainResponse(
    request_id="why",
    policy="cost",
    prompt_tokens=65,
    expected_output_tokens=7,
    num_routes=2,
    routes=[
        inference_pb2.RouteCost(
            prefill_worker="prefill-0",
            decode_worker="decode-0",
            queue_us=1000,
            prefill_us=2000,
            transfer_us=4000,
            interference_us=8000,
            decode_us=16000,
            total_us=31000,
            cached_tokens=64,
            shipped_tokens=65,
        ),
        inference_pb2.RouteCost(decode_worker="decode-0", total_us=123400),
    ],
)


def show(
    monkeypatch: pytest.MonkeyPatch,
    answer: inference_pb2.ExplainResponse,
    *,
    as_json: bool = False,
) -> None:
    async def fetch(
        connection: Connection, request_ids: list[str]
    ) -> list[inference_pb2.ExplainResponse]:
        assert (connection.address, request_ids) == ("router:1", ["why"])
        return [answer]

    monkeypatch.setattr(explain, "_fetch", fetch)
    monkeypatch.setenv("COLUMNS", "80")
    explain.command(Connection("router:1"), ["why", "why"], as_json=as_json)


def test_the_route_taken_stands_first_among_the_candidates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(monkeypatch, ANSWER)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    numbers = ["1.0", "2.0", "4.0", "8.0", "16.0", "31.0", "64"]
    taken = lines.index(["prefill-0", "decode-0", *numbers])
    assert lines[taken + 1] == ["decode-0", "decode-0", *["0.0"] * 5, "123.4", "0"]
    assert ["It", "still", "runs,", "or", "did", "not", "end", "well."] in lines


def test_an_ended_request_shows_where_its_time_went(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = inference_pb2.Timings(queue_us=5000, first_token_us=77000, total_us=99000)
    answer = inference_pb2.ExplainResponse()
    answer.CopyFrom(ANSWER)
    answer.finished.add(timings=timings, decode_worker="decode-0")
    show(monkeypatch, answer)
    out = capsys.readouterr().out
    assert "choice 0" in out
    assert " 77 " in out
    show(monkeypatch, answer, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["finished"][0]["timings"]["first_token_us"] == 77000


def test_the_json_form_names_every_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(monkeypatch, ANSWER, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"], found["num_routes"], found["finished"]) == ("cost", 2, [])
    assert found["routes"][0] == {
        "prefill_worker": "prefill-0",
        "decode_worker": "decode-0",
        "queue_us": 1000,
        "prefill_us": 2000,
        "transfer_us": 4000,
        "interference_us": 8000,
        "decode_us": 16000,
        "total_us": 31000,
        "cached_tokens": 64,
        "shipped_tokens": 65,
    }
