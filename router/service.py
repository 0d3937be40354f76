"""The router's gRPC edge: translates, calls, turns our errors into statuses. Decides nothing."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeAlias

import grpc

from common.rpc.convert import finish_to_pb
from common.rpc.convert_sampling import logprobs_to_pb
from common.rpc.convert_timings import timings_to_pb, to_us
from common.rpc.status import to_status
from common.telemetry.logs import get_logger
from pdserve.errors import InternalError, RequestError
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from router.admission import Admission
from router.blocks import Blocks
from router.explain import Explanations
from router.grammar import GrammarChecker
from router.journey import Journeys
from router.progress import Delta, Summary
from router.tenant import current_tenant
from router.tokenizer import Tokenizer
from router.validation import Job, Limits, parse_request

_log = get_logger()

GenerateContext: TypeAlias = grpc.aio.ServicerContext[
    inference_pb2.GenerateRequest, inference_pb2.GenerateResponse
]


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """pdserve.v1.Inference."""

    def __init__(
        self,
        limits: Limits,
        tokenizer: Tokenizer,
        grammars: GrammarChecker,
        admission: Admission,
        journeys: Journeys,
        explanations: Explanations,
        blocks: Blocks,
    ) -> None:
        self._limits = limits
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._admission = admission
        self._journeys = journeys
        self._explanations = explanations
        self._blocks = blocks

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: GenerateContext
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """See inference.proto."""
        try:
            job = await self.parse(request)
            deltas = self._journeys.run(job, context.time_remaining())
            async with aclosing(deltas):
                async for delta in deltas:
                    response = _to_response(job, delta)
                    if delta.summary is not None:
                        finished = response.finished
                        self._explanations.finish(job.key, delta.choice, finished)
                    yield response
        except RequestError as error:
            await context.abort_with_status(to_status(error))
        except Exception as error:
            _log.exception("generate_failed")
            failure = InternalError(f"unexpected {type(error).__name__}")
            await context.abort_with_status(to_status(failure))

    async def Cancel(
        self,
        request: inference_pb2.CancelRequest,
        context: grpc.aio.ServicerContext[
            inference_pb2.CancelRequest, inference_pb2.CancelResponse
        ],
    ) -> inference_pb2.CancelResponse:
        """See inference.proto."""
        try:
            self._admission.cancel(current_tenant(), request.request_id)
        except RequestError as error:
            await context.abort_with_status(to_status(error))
        return inference_pb2.CancelResponse()

    async def Explain(
        self,
        request: inference_pb2.ExplainRequest,
        context: grpc.aio.ServicerContext[
            inference_pb2.ExplainRequest, inference_pb2.ExplainResponse
        ],
    ) -> inference_pb2.ExplainResponse:
        """See inference.proto."""
        try:
            key = self._explanations.find(current_tenant(), request.request_id)
        except RequestError as error:
            await context.abort_with_status(to_status(error))
        response = self._explanations.explain(key)
        response.blocks.extend(await self._blocks.of(str(key)))
        return response

    async def parse(self, request: inference_pb2.GenerateRequest) -> Job:
        """The job that a request asks for. Raises RequestError, and counts it."""
        try:
            job = parse_request(request, self._limits, self._tokenizer)
            if job.sampling.grammar is not None:
                await self._grammars.check(job.sampling.grammar)
            return job
        except RequestError:
            self._admission.reject()
            raise


def _to_response(job: Job, delta: Delta) -> inference_pb2.GenerateResponse:
    response = inference_pb2.GenerateResponse(
        request_id=job.request_id,
        text=delta.text,
        token_ids=delta.token_ids,
        index=delta.index,
        logprobs=map(logprobs_to_pb, delta.logprobs),
        prompt_logprobs=map(logprobs_to_pb, delta.prompt_logprobs),
        choice=delta.choice,
    )
    if delta.summary is not None:
        response.finished.CopyFrom(to_finished(job, delta.summary))
    return response


def to_finished(job: Job, summary: Summary) -> inference_pb2.Finished:
    """How a choice of the job ended."""
    usage = inference_pb2.Usage(
        prompt_tokens=len(job.prompt_token_ids),
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
    """The worker's offsets count from the submission; the client's from the arrival here."""
    message = timings_to_pb(summary.timings.after(summary.submitted_s))
    message.first_token_us = to_us(summary.first_token_s)
    message.decode_us = to_us(summary.total_s - summary.first_token_s)
    message.total_us = to_us(summary.total_s)
    return message
