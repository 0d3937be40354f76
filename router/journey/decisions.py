"""The latest decisions, for `Explain`."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from common.rpc.convert_timings import to_us
from pdserve.errors import NotFoundError
from pdserve.v1 import inference_pb2
from router.access.tenant import RequestKey, Tenant, find
from router.routing.policy import Decision
from router.routing.prediction import RouteCost

_MAX_REMEMBERED = 1024


@dataclass(slots=True)
class _Entry:
    decision: Decision
    arrival_s: float  # since the router's start
    finished: dict[int, inference_pb2.Finished] = field(default_factory=dict)


class DecisionLog:
    """Decisions by request, the oldest forgotten; of an id that came again, the last."""

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._start_s = time.monotonic()
        self._entries: OrderedDict[RequestKey, _Entry] = OrderedDict()

    def record(self, key: RequestKey, decision: Decision, arrival_s: float) -> None:
        """A request was routed; `arrival_s` is on the router's monotonic clock."""
        self._entries[key] = _Entry(decision, arrival_s - self._start_s)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_remembered:
            self._entries.popitem(last=False)

    def note_finished(self, key: RequestKey, choice: int, finished: inference_pb2.Finished) -> None:
        """One of its choices ended well; ignored when its decision is forgotten."""
        if key in self._entries:
            self._entries[key].finished[choice] = finished

    def find(self, tenant: Tenant, request_id: str) -> RequestKey:
        """The request of this id that the tenant may see. Raises NotFoundError."""
        key = find(self._entries, tenant, request_id)
        if key is None:
            raise NotFoundError(
                f"request {request_id} is not among the last {self._max_remembered}",
                field="request_id",
            )
        return key

    def explain(self, key: RequestKey) -> inference_pb2.ExplainResponse:
        """What is known of a request that `find` found just now."""
        entry = self._entries[key]
        decision = entry.decision
        return inference_pb2.ExplainResponse(
            request_id=key.request_id,
            policy=decision.policy,
            prompt_tokens=decision.ask.num_prompt_tokens,
            expected_output_tokens=decision.ask.num_output_tokens,
            num_routes=decision.num_routes,
            routes=[_to_pb(cost) for cost in (decision.chosen, *decision.others)],
            arrival_us=to_us(entry.arrival_s),
            finished=[done for _, done in sorted(entry.finished.items())],
        )


def _to_pb(cost: RouteCost) -> inference_pb2.RouteCost:
    return inference_pb2.RouteCost(
        prefill_worker=cost.route.prefill or "",
        decode_worker=cost.route.decode,
        queue_us=to_us(cost.queue_s),
        prefill_us=to_us(cost.prefill_s),
        transfer_us=to_us(cost.transfer_s),
        interference_us=to_us(cost.interference_s),
        decode_us=to_us(cost.decode_s),
        total_us=to_us(cost.total_s),
        cached_tokens=cost.num_cached_tokens,
        shipped_tokens=cost.num_shipped_tokens,
    )
