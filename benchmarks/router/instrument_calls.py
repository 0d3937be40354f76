"""The router's own calls of metrics, log and tracing, for a played request, to be timed one by one."""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import generate_latest

from common.messages import FinishReason, SamplingParams
from common.router_config import RouterConfig
from common.telemetry.request_log import RequestLog
from common.telemetry.tracing.exporter import SpanExporter
from common.telemetry.tracing.otlp import OtlpEncoder
from common.telemetry.tracing.span import EndedTrace, Trace
from common.telemetry.tracing.tracing import Tracing
from common.timings import DecodeStepTiming, PrefillChunkTiming, TransferTiming, WorkTimings
from router.access.tenant import ANONYMOUS
from router.admission.admission import Admission, Outcome
from router.admission.fair_queue import FairQueue
from router.admission.prompt_queue import PromptQueue, Turn
from router.intake.job import Job
from router.journey.attempt import Attempt
from router.journey.live_request import Arrival, LiveChoice, LiveRequest, Resources
from router.journey.metric_sets import make_metrics
from router.journey.metrics import RouterMetrics
from router.journey.output_text import OutputText
from router.journey.progress import Progress, Summary
from router.journey.request_ends import RequestEnds
from router.journey.request_spans import spans_of
from router.routing.policy import Decision
from router.routing.prediction import Ask, Route, RouteCost
from router.workers.pool import WorkerPool
from router.workers.work_stream import WorkStream

MODEL, NUM_TOKENS, GAP_S, TTFT_S = "double", 100, 0.04, 0.5  # of the played request
_CHUNK = PrefillChunkTiming(0.1, 0.1, 512, is_remote=True)
_PIECE = TransferTiming(0.2, 0.01, 0.02, 0.25, 0.01, 512, 2**23)
_STEP = DecodeStepTiming(0.4, GAP_S, 16, 16)
_TIMINGS = WorkTimings(
    0.1, (_CHUNK,) * 4, 0.05, 2**25, pull_s=0.1, transfers=(_PIECE,) * 4, decode_steps=(_STEP,) * 2
)
_ROUTE = Route("decode-0", "prefill-0")
_COST = RouteCost(_ROUTE, 0.0, 0.1, 0.0, 0.0, 1.0, GAP_S, 0, 2048, 0.4, 0)
Named = dict[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls by how often they happen; each stands for one token, request, sampled one or scrape."""

    per_token: Named
    per_request: Named
    per_line: Named  # of the log: once a request too
    per_decision: Named  # whether a request is sampled: once a request too
    per_sampled: Named
    per_scrape: Named

    def all(self) -> Named:
        """Return all of them."""
        often = {**self.per_token, **self.per_request, **self.per_line, **self.per_decision}
        return {**often, **self.per_sampled, **self.per_scrape}


def played(ratio: float) -> Calls:
    """Return the calls for a request of four chunks that is handed off, of which `ratio` are sampled.

    Log lines go to stderr.
    """
    config = RouterConfig()
    admission, pool = Admission(config), WorkerPool([], config)
    metrics = make_metrics(MODEL, admission, pool.views, config)
    tracing = Tracing(_Forgetting(), ratio, MODEL)
    request, progress = _request(admission, pool), _progress(metrics)
    summary = _summary()
    encoder, trace = OtlpEncoder("benchmark"), Trace(2**100)
    ends, log, line = RequestEnds(metrics), RequestLog(), _Line()
    ends._log = line
    ends.note(request, [summary])

    def count() -> None:
        metrics.ttft.observe(TTFT_S)
        progress._count(summary)

    def root_to_bytes() -> bytes:
        root = spans_of(request, MODEL, 5.0)
        tracing.end(trace, root)
        return encoder.encode([EndedTrace(trace, root, 0.0)])

    return Calls(
        per_token={"gap between tokens": lambda: metrics.itl.observe(GAP_S)},
        per_request={
            "lengths, times and stages": count,
            "end": lambda: ends.note(request, [summary]),
        },
        per_line={"log line": lambda: log.write("request_ended", **line.fields)},
        per_decision={"decision to trace": lambda: tracing.begin(request.job.caller)},
        per_sampled={"spans, to bytes": root_to_bytes},
        per_scrape={"scrape": lambda: generate_latest(metrics.registry)},
    )


class _Line(RequestLog):
    """Log that keeps the fields of its last line, and writes none."""

    fields: dict[str, str | float | None]

    def write(self, event: str, **fields: str | float | None) -> None:
        """Keep the fields."""
        self.fields = fields


class _Forgetting(SpanExporter):
    """Exporter that takes every trace and keeps none."""

    def __init__(self) -> None:
        super().__init__(lambda batch: 0)

    def put(self, trace: EndedTrace) -> None:
        """Count the spans, as the queue does."""
        self.counts.exported += trace.num_spans


def _job() -> Job:
    sampling = SamplingParams(temperature=0.0, seed=0, max_tokens=NUM_TOKENS)
    return Job("0123456789abcdef", tuple(range(2048)), sampling, (), tenant=ANONYMOUS)


def _request(admission: Admission, pool: WorkerPool) -> LiveRequest:
    """Return a request that ended well."""
    job = _job()
    ticket = admission.admit(job.key, len(job.prompt_token_ids), lambda error: None)
    ticket.num_output_tokens, ticket.outcome = NUM_TOKENS, Outcome.COMPLETED
    choice = LiveChoice(0, "0", WorkStream("0", NUM_TOKENS))
    choice.attempts = [Attempt(_ROUTE, 0.1, 4.5, timings=_TIMINGS)]
    choice.finish_reason = FinishReason.LENGTH
    queue = PromptQueue(FairQueue[Turn](admission.tenants.weight), lambda entrant: 0)
    resources = Resources(admission, queue, pool)
    request = LiveRequest(job, Arrival(0.0, None), ticket, "0", [choice], resources, None)
    request.submitted_s, request.first_token_s, request.route = 0.1, TTFT_S, _ROUTE
    request.reason = FinishReason.LENGTH
    return request


def _progress(metrics: RouterMetrics) -> Progress:
    job = _job()
    decision = Decision("cost", Ask(len(job.prompt_token_ids), NUM_TOKENS), _COST, (), 1)
    text = OutputText(lambda ids: "", job)
    progress = Progress(job, 0, decision, 0.0, 0.1, text, metrics)
    progress.num_tokens, progress.first_token_s = NUM_TOKENS, TTFT_S
    progress.last_token_s = TTFT_S + NUM_TOKENS * GAP_S
    return progress


def _summary() -> Summary:
    total_s = TTFT_S + NUM_TOKENS * GAP_S
    return Summary(FinishReason.LENGTH, _ROUTE, 0, NUM_TOKENS, 0.1, TTFT_S, total_s, _TIMINGS, "")
