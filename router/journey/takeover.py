"""Takeover of a request that another router ran: its client sends the output that has come.

1. `parse_received` (router/intake/received.py) checks the output. Admission counts its tokens with
   those of the prompt.
2. `rebuild_texts` lets each choice's text pass through detokenizer and stop texts again. Text depends
   on tokens alone. So what follows joins what the client has, also inside a character.
3. The choices run on like those of a lost worker (relocation.py): the worker computes prompt and
   output, rebuilds sampler, grammar and penalties from them, and goes on at the next index. A choice
   that has ended is not run.
"""

import asyncio
from collections.abc import Callable, Sequence

from common.telemetry.logs import get_logger
from router.journey.live_request import LiveRequest
from router.journey.metrics import RouterMetrics
from router.journey.output_text import OutputText

_log = get_logger()


async def rebuild_texts(
    request: LiveRequest, decode: Callable[[Sequence[int]], str]
) -> list[OutputText]:
    """Return the makers of each choice's text, behind the output that the client has.

    Raises InvalidRequestError, or the error that has ended the request meanwhile.
    """
    texts = [OutputText(decode, request.job) for _ in request.choices]
    if request.job.received.num_tokens:
        outputs = [tuple(choice.token_ids) for choice in request.choices]
        # some 20 us a token, which would hold up every stream
        await asyncio.to_thread(_replay, texts, outputs)
        request.check_not_failed()
    return texts


def note_takeover(request: LiveRequest, metrics: RouterMetrics) -> None:
    """Count and log a request that another router ran; of another request, nothing."""
    received = request.job.received
    if not received.token_ids:
        return
    metrics.migrations.labels("router").inc(len(request.choices))
    _log.info(
        "request_taken_over",
        request_id=request.job.request_id,
        num_choices=len(request.choices),
        num_tokens=received.num_tokens,
    )


def _replay(texts: Sequence[OutputText], outputs: Sequence[tuple[int, ...]]) -> None:
    for text, token_ids in zip(texts, outputs, strict=True):
        text.replay(token_ids)
