"""Answers `Explain`: the decision of one request, its end, and the KV blocks that it holds."""

from common.rpc.convert_timings import to_us
from pdserve.v1 import inference_pb2
from router.access.tenant import Tenant
from router.edge.block_ledgers import BlockLedgers
from router.edge.responses import to_finished
from router.journey.decisions import DecisionEntry, DecisionLog
from router.routing.prediction import RouteCost


class Explainer:
    """Puts together what the decision log and the workers' ledgers say of one request."""

    def __init__(self, decisions: DecisionLog, ledgers: BlockLedgers) -> None:
        self._decisions = decisions
        self._ledgers = ledgers

    async def explain(self, tenant: Tenant, request_id: str) -> inference_pb2.ExplainResponse:
        """Return what is known of a request that the tenant may see. Raises NotFoundError."""
        key = self._decisions.find(tenant, request_id)
        response = _to_pb(key.request_id, self._decisions.entry(key))
        response.blocks.extend(await self._ledgers.read_request(str(key)))
        return response


def _to_pb(request_id: str, entry: DecisionEntry) -> inference_pb2.ExplainResponse:
    decision, ask = entry.decision, entry.decision.ask
    return inference_pb2.ExplainResponse(
        request_id=request_id,
        policy=decision.policy,
        prompt_tokens=ask.num_prompt_tokens,
        expected_output_tokens=ask.num_output_tokens,
        num_routes=decision.num_routes,
        routes=[_cost_to_pb(cost) for cost in (decision.chosen, *decision.others)],
        arrival_us=to_us(entry.arrival_s),
        finished=[
            to_finished(ask.num_prompt_tokens, summary)
            for _, summary in sorted(entry.finished.items())
        ],
    )


def _cost_to_pb(cost: RouteCost) -> inference_pb2.RouteCost:
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
