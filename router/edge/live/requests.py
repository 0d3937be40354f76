"""Live requests as the page shows them. Names and numbers; never what a request says."""

from itertools import islice

from router.edge.live.holders import Holders
from router.edge.live.sources import Sources
from router.journey.live_request import LiveRequest

MAX_LISTED = 256  # the oldest: those that run


def describe_requests(sources: Sources, holders: Holders) -> list[dict[str, object]]:
    """Return the requests under way, oldest first, at most MAX_LISTED of them."""
    listed = islice(sources.requests, MAX_LISTED)
    return [_describe(request, sources, holders) for request in listed]


def _describe(request: LiveRequest, sources: Sources, holders: Holders) -> dict[str, object]:
    job, route = request.job, request.route
    prefill, decode = (route.prefill, route.decode) if route else (None, None)
    name = sources.work_ids.to_public(request.choices[0].stream.request_id)
    stage = stage_of(request)
    prompt_worker = prefill if stage == "prefill" and prefill else decode
    is_pulled = prefill is not None and holders.state(decode, name) == "pulling"
    return {
        "id": str(job.key),
        "stage": stage,
        "state": holders.state(prompt_worker, name),
        "prefill_worker": prefill,
        "decode_worker": decode,
        "choices": job.num_choices,
        "prompt_tokens": len(job.prompt_token_ids),
        "computed_tokens": holders.num_computed_tokens(prompt_worker, name),
        "pulled_tokens": holders.num_computed_tokens(decode, name) if is_pulled else None,
        "output_tokens": request.ticket.num_output_tokens,
        "max_tokens": job.sampling.max_tokens * job.num_choices,
        "moves": request.num_moves,
        "arrival_s": round(request.arrival.at_s, 6),
        "submitted_s": _offset(request, request.submitted_s or None),
        "first_token_s": _offset(request, request.first_token_s),
    }


def stage_of(request: LiveRequest) -> str:
    """Return where a request is: "queue", "prefill", "handoff" or "decode".

    A hand-off is seen from token 1, which comes from prefill, to token 2, which comes from decode.
    """
    if not request.submitted_s:
        return "queue"
    num_tokens = request.ticket.num_output_tokens
    if not num_tokens:
        return "prefill"
    is_handed_off = request.route is not None and request.route.prefill is not None
    return "handoff" if is_handed_off and num_tokens <= request.job.num_choices else "decode"


def _offset(request: LiveRequest, at_s: float | None) -> float | None:
    """Return seconds since the request's arrival."""
    return None if at_s is None else round(at_s - request.arrival.at_s, 6)
