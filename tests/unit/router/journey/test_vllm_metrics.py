"""Tests of our metrics under vLLM's names."""

from dataclasses import replace

import pytest

from common.messages import FinishReason, Role, WorkerInfo, WorkerLoad
from common.router_config import RouterConfig
from pdserve.errors import Reason
from router.access.tenant import ANONYMOUS, RequestKey
from router.admission.admission import Admission
from router.journey.metric_sets import make_metrics
from router.journey.metrics import RouterMetrics
from router.workers.view import WorkerState, WorkerView

VLLM = RouterConfig(metrics_compat="vllm")
DECODE = WorkerInfo("decode-0", Role.DECODE, 1, "i", "tiny", 512, 259)
PREFILL = replace(DECODE, name="prefill-0", role=Role.PREFILL)
LOAD = WorkerLoad(blocks_total=16, blocks_free=4, block_size=32, preemptions=5)
WHOLE = {"model_name": "m", "engine": "0"}


def made(admission: Admission | None = None, *views: WorkerView) -> RouterMetrics:
    return make_metrics("m", admission or Admission(VLLM), lambda: list(views), VLLM)


def value(metrics: RouterMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vllm:{name}", WHOLE | labels)


def view(info: WorkerInfo, *, is_connected: bool = True) -> WorkerView:
    return WorkerView(info, LOAD, WorkerState.READY, "a", is_connected)


def test_a_histogram_has_the_same_buckets_sum_and_count() -> None:
    metrics = made()
    metrics.ttft.observe(0.2)
    assert value(metrics, "time_to_first_token_seconds_sum") == 0.2
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.1") == 0
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.25") == 1
    assert value(metrics, "time_to_first_token_seconds_count") == 1


@pytest.mark.parametrize(
    ("reason", "theirs"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.LENGTH, "length"),
        (Reason.CANCELLED, "abort"),
        (Reason.DEADLINE_EXCEEDED, "abort"),
        (Reason.WORKER_LOST, "error"),
    ],
)
def test_ends_have_vllm_s_reasons(reason: FinishReason | Reason, theirs: str) -> None:
    metrics = made()
    metrics.finished.labels(reason).inc()
    counts = {
        name: value(metrics, "request_success_total", finished_reason=name)
        for name in ("stop", "length", "abort", "error")
    }
    assert counts == dict.fromkeys(counts, 0) | {theirs: 1}


def test_requests_run_once_they_have_a_token() -> None:
    admission = Admission(VLLM)
    metrics = made(admission)
    tickets = [admission.admit(RequestKey(ANONYMOUS, name), 10, lambda _: None) for name in "abc"]
    admission.note_tokens(tickets[0], 1)
    assert value(metrics, "num_requests_running") == 1
    assert value(metrics, "num_requests_waiting") == 2


def test_memory_is_that_of_each_worker_by_its_name() -> None:
    metrics = made(None, view(DECODE), view(PREFILL))
    assert value(metrics, "kv_cache_usage_perc", engine="decode-0") == 0.75
    assert value(metrics, "kv_cache_usage_perc", engine="prefill-0") is None
    assert value(metrics, "num_preemptions_total", engine="prefill-0") == 5
    cache = {"engine": "decode-0", "block_size": "32", "num_gpu_blocks": "16"}
    assert value(metrics, "cache_config_info", **cache) == 1


def test_a_worker_that_is_gone_has_no_memory() -> None:
    metrics = made(None, view(DECODE, is_connected=False))
    assert value(metrics, "kv_cache_usage_perc", engine="decode-0") is None


def test_without_the_setting_no_name_is_of_vllm() -> None:
    config = RouterConfig()
    metrics = make_metrics("m", Admission(config), list, config)
    names = [family.name for family in metrics.registry.collect()]
    assert names
    assert [name for name in names if name.startswith("vllm")] == []
