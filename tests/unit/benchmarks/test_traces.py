import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic_trace import Summary, TracedRequest, synthetic
from benchmarks.traces import MAX_TOKENS, Trace, load_traces
from benchmarks.workload import Shape, offered_at


def trace(*requests: TracedRequest, prompts: int = 4, outputs: int = 4, block: int = 1) -> Trace:
    return Trace("a trace", list(requests), prompts, outputs, block)


def test_lengths_are_divided_and_what_does_not_fit_is_cut() -> None:
    requests = [
        TracedRequest(0.0, 400, 40),
        TracedRequest(1.0, 1, 1),
        TracedRequest(2.0, 90_000, 400),
    ]
    shapes = trace(*requests).shapes(3, seed=1)
    lengths = {(shape.input_tokens, shape.output_tokens) for shape in shapes}
    assert lengths == {(100, 10), (1, 1), (MAX_TOKENS - 100, 100)}


def test_prompts_that_share_blocks_share_their_scaled_tokens() -> None:
    requests = TracedRequest(0.0, 1100, 16, (7, 8, 9)), TracedRequest(1.0, 700, 16, (7, 5))
    shapes = trace(*requests, prompts=64, outputs=16, block=512).shapes(3, seed=0)
    works = offered_at(shapes, 1.0, "text")
    first, second = sorted((work.prompt_token_ids for work in works), key=len)[::-1]
    assert (len(first), len(second)) == (17, 11)  # 1100 / 64 and 700 / 64
    assert first[:8] == second[:8]
    assert first[8:11] != second[8:]
    other_text = {work.prompt_token_ids[:8] for work in offered_at(shapes, 1.0, "another")}
    assert first[:8] not in other_text


def test_a_longer_list_begins_like_a_shorter_one_and_goes_on_after_the_end() -> None:
    requests = [TracedRequest(float(n), 40 + 4 * n, 4) for n in range(5)]
    shapes = trace(*requests).shapes(12, seed=3)
    assert shapes[:4] == trace(*requests).shapes(4, seed=3)
    assert all(later.arrival_s >= earlier.arrival_s for earlier, later in pairwise(shapes))
    assert shapes[0].output_tokens == shapes[5].output_tokens


def test_arrivals_are_stretched_to_the_rate_and_bursts_stay() -> None:
    shapes = [Shape(at_s, (("own", 2),), 1) for at_s in (100.0, 100.0, 100.3, 100.6)]
    works = offered_at(shapes, rate_per_s=0.5, seed="text")
    assert [work.arrival_s for work in works] == pytest.approx([0.0, 0.0, 3.0])  # 3 in 6 s


def test_without_any_time_between_them_requests_have_no_rate() -> None:
    with pytest.raises(ValueError, match="at once"):
        offered_at([Shape(1.0, (("own", 2),), 1)] * 2, 1.0, "text")


def test_a_synthetic_trace_has_the_statistics_asked_for() -> None:
    requests = synthetic(
        Summary(4000, 5.0, 1.5, (2, 200, 1000, 2700, 4100), (7, 54, 129, 424, 601), 512, 0.4)
    )
    gaps = np.diff([request.arrival_s for request in requests])
    inputs = [request.input_tokens for request in requests]
    assert 1 / gaps.mean() == pytest.approx(5.0, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(1.5, rel=0.1)
    assert np.percentile(inputs, [50, 90]) == pytest.approx([1000, 2700], rel=0.1)
    assert max(inputs) <= 4100
    assert max(request.output_tokens for request in requests) <= 601
    seen, hits, total = set[int](), 0, 0
    for request in requests:
        assert len(request.block_ids) == -(-request.input_tokens // 512)
        hits += len(seen & set(request.block_ids))
        total += len(request.block_ids)
        seen |= set(request.block_ids)
    assert hits / total == pytest.approx(0.4, abs=0.01)


def test_without_a_folder_the_line_says_that_the_requests_are_synthetic() -> None:
    traces, line = load_traces(None)
    assert [trace.name for trace in traces] == ["Azure conversation", "Mooncake conversation"]
    assert "synthetic" in line
    assert all(len(trace.requests) > 10_000 for trace in traces)


def test_traces_are_read_in_their_own_formats(tmp_path: Path) -> None:
    (tmp_path / "AzureLLMInferenceTrace_conv.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n"
    )
    row = {"timestamp": 6000, "input_length": 600, "output_length": 5, "hash_ids": [0, 3]}
    (tmp_path / "mooncake_conversation_trace.jsonl").write_text(json.dumps(row) + "\n")
    (azure, mooncake), line = load_traces(tmp_path)
    assert azure.requests == [TracedRequest(0.0, 374, 44), TracedRequest(4.0, 396, 109)]
    (request,) = mooncake.requests
    assert 6.0 <= request.arrival_s <= 9.0  # that trace gives times only in steps of 3 s
    assert (request.input_tokens, request.block_ids) == (600, (0, 3))
    assert line.startswith("real traces")


def test_a_folder_without_traces_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_traces(tmp_path)
