"""Metrics under vLLM's names and labels, for boards and autoscalers made for vLLM.

All of it is computed when scraped, from our own metrics: a token costs nothing more. Names are those
of vLLM 0.32 (docs/usage/metrics), and `time_per_output_token_seconds`, which it had until 0.12.
docs/operate/metrics.md has them as a table.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.messages import FinishReason, Role
from pdserve.errors import Reason
from router.admission.admission import Admission
from router.journey.metrics import RouterMetrics
from router.workers.view import WorkerView

_LABELS = ("model_name", "engine")
_ALL = "0"  # the engine of what counts for the whole deployment
_FINISHED = {str(reason) for reason in FinishReason}
_LEFT = {str(Reason.CANCELLED), str(Reason.DEADLINE_EXCEEDED)}


class VllmCollector(Collector):
    """Metrics under vLLM's names. The label `engine` is "0", or a worker's name."""

    def __init__(
        self,
        model: str,
        metrics: RouterMetrics,
        admission: Admission,
        views: Callable[[], list[WorkerView]],
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._admission = admission
        self._views = views

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics now."""
        labels = {"model_name": self._model, "engine": _ALL}
        for name, ours in _same(self._metrics).items():
            for metric in ours.collect():
                yield _renamed(metric, f"vllm:{name}", labels)
        yield self._finished()
        yield from self._queue()
        yield from self._memory()

    def _finished(self) -> Metric:
        """Return the ends of accepted requests: stop, length, abort (by the client) and error."""
        counts = dict.fromkeys(("stop", "length", "abort", "error"), 0.0)
        for metric in self._metrics.finished.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    counts[_finished_reason(sample.labels["reason"])] += sample.value
        family = CounterMetricFamily(
            "vllm:request_success",
            "Ended requests, by reason",
            labels=(*_LABELS, "finished_reason"),
        )
        for reason, count in counts.items():
            family.add_metric((self._model, _ALL, reason), count)
        return family

    def _queue(self) -> Iterable[Metric]:
        num_waiting = self._admission.num_queued
        running = GaugeMetricFamily(
            "vllm:num_requests_running", "Requests with a token", labels=_LABELS
        )
        running.add_metric((self._model, _ALL), self._admission.num_in_flight - num_waiting)
        waiting = GaugeMetricFamily(
            "vllm:num_requests_waiting", "Requests without a token", labels=_LABELS
        )
        waiting.add_metric((self._model, _ALL), num_waiting)
        return (running, waiting)

    def _memory(self) -> Iterable[Metric]:
        """Return the metrics of each worker's KV memory; `engine` is its name."""
        usage = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc", "Share of a decode worker's KV blocks", labels=_LABELS
        )
        preempted = CounterMetricFamily(
            "vllm:num_preemptions", "Preemptions of a worker", labels=_LABELS
        )
        cache = GaugeMetricFamily(
            "vllm:cache_config_info",
            "A worker's KV memory",
            labels=(*_LABELS, "block_size", "num_gpu_blocks"),
        )
        for view in self._views():
            load, labels = view.load, (self._model, view.info.name)
            if not view.is_connected:
                continue
            if view.info.role is Role.DECODE:
                num_used = load.blocks_total - load.blocks_free
                usage.add_metric(labels, num_used / max(load.blocks_total, 1))
            preempted.add_metric(labels, load.preemptions)
            cache.add_metric((*labels, str(load.block_size), str(load.blocks_total)), 1)
        return (usage, preempted, cache)


def _same(metrics: RouterMetrics) -> Mapping[str, Collector]:
    """Return vLLM's names, without their prefix, of metrics that mean the same here."""
    stages = metrics.stages
    return {
        "time_to_first_token_seconds": metrics.ttft,
        "inter_token_latency_seconds": metrics.itl,
        "time_per_output_token_seconds": metrics.itl,
        "request_time_per_output_token_seconds": metrics.tpot,
        "e2e_request_latency_seconds": metrics.e2e,
        "request_queue_time_seconds": stages.queue,
        "request_prefill_time_seconds": stages.prefill,
        "request_decode_time_seconds": stages.decode,
        "request_prompt_tokens": metrics.prompt_lengths,
        "request_generation_tokens": metrics.output_lengths,
        "prompt_tokens": metrics.prompt_tokens,
        "prompt_tokens_cached": metrics.cached_tokens,
        "generation_tokens": metrics.output_tokens,
        "prefix_cache_queries": metrics.prompt_tokens,
        "prefix_cache_hits": metrics.cached_tokens,
    }


def _renamed(metric: Metric, name: str, labels: Mapping[str, str]) -> Metric:
    """Return the same samples under another name, with more labels."""
    alias = Metric(name, metric.documentation, metric.type)
    for sample in metric.samples:
        ending = sample.name.removeprefix(metric.name)
        alias.add_sample(name + ending, {**labels, **sample.labels}, sample.value)
    return alias


def _finished_reason(reason: str) -> str:
    if reason in _FINISHED:
        return reason
    return "abort" if reason in _LEFT else "error"
