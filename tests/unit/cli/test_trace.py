import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from cli.trace import to_events, write_trace
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2
from tests.unit.cli.timed import explained, finished

Events = list[dict[str, Any]]


def named(events: Events) -> dict[tuple[str, str], Events]:
    """Return complete events by the names of their process and thread."""
    processes, threads = {}, {}
    for event in events:
        if event["name"] == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event["name"] == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            key = processes[event["pid"]], threads[event["pid"], event["tid"]]
            lanes[key].append(event)
    return dict(lanes)


def spans(events: Events) -> list[tuple[str, int, int]]:
    return [(event["name"], event["ts"], event["dur"]) for event in events]


def events_of(*answers: inference_pb2.ExplainResponse) -> Events:
    events: Events = json.loads(json.dumps(to_events(answers)))
    return events


def test_each_worker_and_the_way_between_them_has_lanes_on_the_router_s_time_line() -> None:
    lanes = named(events_of(explained("r", 1_000_000)))
    assert spans(lanes["router", "r"]) == [("r", 1_000_000, 200_000)]
    assert spans(lanes["router", "r phases"])[:2] == [
        ("queue", 1_000_000, 20_000),
        ("prefill", 1_020_000, 30_000),
    ]
    assert spans(lanes["prefill-0", "r"]) == [
        ("chunk 1", 1_020_000, 10_000),
        ("chunk 2", 1_030_000, 10_000),
        ("chunk 3", 1_040_000, 10_000),
    ]
    way = "KV prefill-0 to decode-0"
    assert spans(lanes[way, "r copy-out"])[0] == ("KV 1", 1_030_000, 2_000)
    assert spans(lanes[way, "r wire"])[2] == ("KV 3", 1_053_000, 4_000)
    assert spans(lanes[way, "r insert"])[1] == ("KV 2", 1_046_000, 5_000)
    assert lanes[way, "r wire"][2]["args"] == {"tokens": 76, "bytes": 76 * 1024}
    decode = lanes["decode-0", "r"]
    assert len(decode) == 100
    assert spans(decode)[0] == ("step", 1_070_000, 900)
    assert decode[0]["args"] == {"sequences": 5, "tokens": 6}


def test_it_is_a_trace_event_file_whose_threads_never_overlap(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_trace(path, [explained("a", 0), explained("b", 150_000)])
    trace = json.loads(path.read_text())
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    ends: dict[tuple[int, int], int] = defaultdict(int)
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "X":
            thread = event["pid"], event["tid"]
            assert event["ts"] >= ends[thread]
            assert event["dur"] >= 0
            ends[thread] = event["ts"] + event["dur"]
    names = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert set(ends) == names


def test_kv_that_overtakes_other_kv_gets_a_lane_of_its_own() -> None:
    answer = explained("r", 0)
    answer.finished[0].timings.transfers[0].wire_us = 30_000
    lanes = named(events_of(answer))
    way = "KV prefill-0 to decode-0"
    assert [e["name"] for e in lanes[way, "r wire"]] == ["KV 1"]
    assert [e["name"] for e in lanes[way, "r wire (2)"]] == ["KV 2", "KV 3"]


def test_steps_that_nobody_kept_are_one_span() -> None:
    answer = explained("r", 0)
    answer.finished[0].CopyFrom(finished(num_steps=1000, num_kept=128))
    decode = named(events_of(answer))["decode-0", "r"]
    assert len(decode) == 129
    assert spans(decode)[64] == ("872 steps", 70_000 + 63_900, 873_000 - 900)


def test_a_prompt_computed_again_is_seen_on_the_decode_worker() -> None:
    answer = explained("r", 0)
    timings = answer.finished[0].timings
    timings.prefill_chunks.add(start_us=170_000, duration_us=900, num_tokens=9)
    lanes = named(events_of(answer))
    assert len(lanes["prefill-0", "r"]) == 3
    assert spans(lanes["decode-0", "r"])[-1] == ("chunk 1", 170_000, 900)


def test_choices_stand_beside_each_other() -> None:
    answer = explained("r", 0)
    answer.finished.append(finished())
    assert {("router", "r#0"), ("router", "r#1")} <= set(named(events_of(answer)))


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"--trace .*missing.* cannot be written: No such file"):
        write_trace(tmp_path / "missing" / "out.json", [explained("r", 0)])
    running = inference_pb2.ExplainResponse(request_id="r")
    with pytest.raises(SetupError, match="nothing to show"):
        write_trace(tmp_path / "out.json", [running])
    assert not list(tmp_path.iterdir())
