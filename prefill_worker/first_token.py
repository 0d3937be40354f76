"""Token 1 of a prompt as the item that decode forwards to the client at once."""

import time

from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.kv_transfer.wire import FirstTokenHeader, WireItem, make_first_token


def first_token_item(seq: Sequence, sample: Sample) -> WireItem:
    """Return the item of a prompt's token 1, with the prompt's timings and log-probabilities.

    Seconds count from the prompt's arrival on this worker's clock.
    """
    timeline, scores = seq.timeline, sample.logprobs
    chunks = ((c.start_s, c.duration_s, c.num_tokens) for c in timeline.chunks)
    header = FirstTokenHeader(
        request_id=seq.request_id,
        attempt=seq.request.attempt,
        token_id=sample.token_id,
        num_cached_tokens=timeline.num_cached_tokens,
        sent_s=time.monotonic() - timeline.arrival_s,
        chunks=tuple(chunks),
        logprobs=(scores.logprob, scores.top_token_ids, scores.top_logprobs) if scores else None,
    )
    return make_first_token(header, seq.prompt_logprobs)
