import json

import pytest

from cli import explain
from cli.connection import Connection
from pdserve.v1 import inference_pb2
from tests.unit.cli.timed import explained

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


def test_several_requests_begin_with_one_waterfall_on_one_scale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [explained("long", 0), explained("short", 0), inference_pb2.ExplainResponse()]
    answers[1].finished[0].timings.total_us = 100_000

    async def fetch(
        connection: Connection, request_ids: list[str]
    ) -> list[inference_pb2.ExplainResponse]:
        return answers

    monkeypatch.setattr(explain, "_fetch", fetch)
    monkeypatch.setenv("COLUMNS", "80")
    explain.command(Connection("router:1"), ["long", "short", "runs"])
    out = capsys.readouterr().out
    together = out[: out.index("policy")]
    bars = {line.split()[0]: line.count("█") for line in together.splitlines() if "█" in line}
    assert bars["short"] == bars["long"] / 2


def test_the_json_form_has_the_spans_of_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = inference_pb2.ExplainResponse()
    answer.CopyFrom(explained("why", 0))
    show(monkeypatch, answer, as_json=True)
    spans = json.loads(capsys.readouterr().out)["finished"][0]["spans"]
    assert [span["name"] for span in spans] == [
        "queue",
        "queue",
        "prefill",
        *["transfer", "insert"] * 3,
        "wait",
        "decode",
    ]
    assert spans[2] == {
        "name": "prefill",
        "place": "prefill",
        "start_us": 20_000,
        "end_us": 50_000,
        "num_tokens": 1100,
        "num_chunks": 3,
        "parts": [
            {
                "name": "chunk",
                "place": "prefill",
                "start_us": start_us,
                "end_us": start_us + 10_000,
                "num_tokens": num_tokens,
                "parts": [],
            }
            for start_us, num_tokens in ((20_000, 512), (30_000, 512), (40_000, 76))
        ],
    }
