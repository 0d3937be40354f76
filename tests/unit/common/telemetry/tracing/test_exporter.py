"""The exporter's queue and thread. A test plays the collector; gates hold the thread."""

import threading
from collections.abc import Sequence

from structlog.testing import capture_logs

from common.telemetry.tracing.exporter import ExportCounts, ExportError, SpanExporter
from common.telemetry.tracing.span import EndedTrace
from tests.patience import WITHIN_S
from tests.unit.common.telemetry.tracing.ended import ended_trace


class Played:
    """Collector that a test plays: it answers when the gate is open."""

    def __init__(self, problems: Sequence[Exception | None] = ()) -> None:
        self.batches: list[list[EndedTrace]] = []
        self.num_rejected = 0
        self.gate, self.asked = threading.Event(), threading.Semaphore(0)
        self._problems = list(problems)

    def send(self, batch: Sequence[EndedTrace]) -> int:
        self.asked.release()
        assert self.gate.wait(WITHIN_S)
        problem = self._problems.pop(0) if self._problems else None
        if problem is not None:
            raise problem
        self.batches.append(list(batch))
        return self.num_rejected


def exporter_to(played: Played, max_queued_spans: int = 1000) -> SpanExporter:
    return SpanExporter(played.send, max_queued_spans, gather_s=0.0)


def test_traces_are_sent_in_order_and_a_stop_sends_the_rest() -> None:
    played = Played()
    played.gate.set()
    exporter = exporter_to(played)
    exporter.start()
    for number in range(1, 6):
        exporter.put(ended_trace(number))
    exporter.stop(WITHIN_S)
    sent = [ended.trace.trace_id for batch in played.batches for ended in batch]
    assert sent == [1, 2, 3, 4, 5]
    assert exporter.counts == ExportCounts(exported=15)


def test_a_full_queue_drops_and_counts_the_new_ones() -> None:
    played = Played()
    exporter = exporter_to(played, max_queued_spans=6)
    exporter.start()
    exporter.put(ended_trace(1))
    assert played.asked.acquire(timeout=WITHIN_S)
    for number in range(2, 12):
        exporter.put(ended_trace(number))
    assert exporter.counts.queue_full == 8 * 3
    played.gate.set()
    exporter.stop(WITHIN_S)
    sent = [ended.trace.trace_id for batch in played.batches for ended in batch]
    assert sent == [1, 2, 3]
    exporter.put(ended_trace(12))
    assert exporter.counts == ExportCounts(exported=9, queue_full=9 * 3)


def test_an_outage_is_one_warning_and_its_end_one_line() -> None:
    played = Played([ExportError("gone")] * 3 + [None])
    exporter = exporter_to(played)
    with capture_logs() as lines:
        exporter.start()
        for number in range(4):
            exporter.put(ended_trace(number))
            # one batch each: the gate lets one answer through
            assert played.asked.acquire(timeout=WITHIN_S)
            played.gate.set()
            while exporter.counts.exported + exporter.counts.export_failed < 3 * (number + 1):
                assert exporter._thread.is_alive()
            played.gate.clear()
        exporter.stop(WITHIN_S)
    assert exporter.counts == ExportCounts(exported=3, export_failed=9)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("trace_export_failed", "warning"),
        ("trace_export_recovered", "info"),
    ]
    assert (lines[0]["problem"], lines[1]["num_spans_lost"]) == ("gone", 9)


def test_a_surprise_loses_a_batch_and_not_the_thread() -> None:
    played = Played([RuntimeError("what the user said")])
    played.gate.set()
    exporter = exporter_to(played)
    with capture_logs() as lines:
        exporter.start()
        exporter.put(ended_trace(1))
        assert played.asked.acquire(timeout=WITHIN_S)
        exporter.put(ended_trace(2))
        exporter.stop(WITHIN_S)
    assert [[ended.trace.trace_id for ended in batch] for batch in played.batches] == [[2]]
    assert lines[0]["problem"] == "RuntimeError"


def test_what_the_collector_refuses_is_counted() -> None:
    played = Played()
    played.num_rejected = 2
    played.gate.set()
    exporter = exporter_to(played)
    exporter.start()
    exporter.put(ended_trace())
    exporter.stop(WITHIN_S)
    assert exporter.counts == ExportCounts(exported=1, rejected=2)


def test_a_stop_waits_no_longer_than_it_may() -> None:
    played = Played()
    exporter = exporter_to(played)
    exporter.start()
    exporter.put(ended_trace(1))
    assert played.asked.acquire(timeout=WITHIN_S)
    exporter.put(ended_trace(2))
    with capture_logs() as lines:
        exporter.stop(0.0)
    assert [(line["event"], line["num_spans_queued"]) for line in lines] == [
        ("trace_export_cut", 3)
    ]
    played.gate.set()
    exporter.stop(WITHIN_S)


def test_a_stop_without_a_start_is_nothing() -> None:
    exporter_to(Played()).stop(WITHIN_S)
