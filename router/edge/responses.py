"""Deltas and summaries as messages of pdserve.v1."""

from common.rpc.convert import finish_to_pb
from common.rpc.convert_sampling import logprobs_to_pb
from common.rpc.convert_timings import timings_to_pb, to_us
from pdserve.v1 import inference_pb2
from router.intake.job import Job
from router.journey.progress import Delta, Summary


def to_response(job: Job, sequence: int, delta: Delta) -> inference_pb2.GenerateResponse:
    """Return a delta as message number `sequence` of the request's stream."""
    response = inference_pb2.GenerateResponse(
        request_id=job.request_id,
        text=delta.text,
        token_ids=delta.token_ids,
        index=delta.index,
        logprobs=map(logprobs_to_pb, delta.logprobs),
        prompt_logprobs=map(logprobs_to_pb, delta.prompt_logprobs),
        choice=delta.choice,
        sequence=sequence,
    )
    if delta.summary is not None:
        response.finished.CopyFrom(to_finished(len(job.prompt_token_ids), delta.summary))
    return response


def to_finished(num_prompt_tokens: int, summary: Summary) -> inference_pb2.Finished:
    """Return the end of a choice as a message."""
    usage = inference_pb2.Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=summary.num_output_tokens,
        cached_tokens=summary.timings.num_cached_tokens,
    )
    return inference_pb2.Finished(
        reason=finish_to_pb(summary.reason),
        usage=usage,
        timings=_to_timings(summary),
        seed=summary.seed,
        prefill_worker=summary.route.prefill or "",
        decode_worker=summary.route.decode,
    )


def _to_timings(summary: Summary) -> inference_pb2.Timings:
    """Return the timings as seen by the client: offsets count from the arrival at the router."""
    message = timings_to_pb(summary.timings.after(summary.submitted_s))
    message.first_token_us = to_us(summary.first_token_s)
    message.decode_us = to_us(summary.total_s - summary.first_token_s)
    message.total_us = to_us(summary.total_s)
    return message
