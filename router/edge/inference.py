"""The router's gRPC edge: translates, calls, turns our errors into statuses. Decides nothing."""

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TypeAlias

import grpc

from common.rpc.status import to_status
from common.telemetry.logs import get_logger
from pdserve.errors import InternalError, InvalidRequestError, RequestError
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from router.access.tenant import RequestKey, current_tenant
from router.admission.admission import Admission
from router.edge.block_ledgers import BlockLedgers
from router.edge.models import list_models, tokenize
from router.edge.responses import to_response
from router.edge.resume import Responses, Resumables
from router.edge.slow_client import write
from router.intake.grammar_checker import GrammarChecker
from router.intake.job import Job, Limits, parse_request
from router.intake.tokenizer import Tokenizer
from router.journey.decisions import DecisionLog
from router.journey.journey import Journeys

_LARGE_BYTES = 2**14  # tokenizing that much takes milliseconds, which would hold up every stream
_RESUME_FIELDS = {"request_id", "resume_from"}
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
        decisions: DecisionLog,
        ledgers: BlockLedgers,
        resumables: Resumables,
        slow_client_s: float,
    ) -> None:
        self._limits = limits
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._admission = admission
        self._journeys = journeys
        self._decisions = decisions
        self._ledgers = ledgers
        self._resumables = resumables
        self._slow_client_s = slow_client_s

    # the stubs know only generators; a coroutine that writes can give a slow client up
    async def Generate(  # type: ignore[override]
        self, request: inference_pb2.GenerateRequest, context: GenerateContext
    ) -> None:
        """See inference.proto."""
        try:
            async with aclosing(await self._open(request, context)) as responses:
                async for response in responses:
                    await write(context, response, self._slow_client_s)
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
            key = self._decisions.find(current_tenant(), request.request_id)
        except RequestError as error:
            await context.abort_with_status(to_status(error))
        response = self._decisions.explain(key)
        response.blocks.extend(await self._ledgers.read_request(str(key)))
        return response

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[
            inference_pb2.ListModelsRequest, inference_pb2.ListModelsResponse
        ],
    ) -> inference_pb2.ListModelsResponse:
        """See inference.proto."""
        return list_models(self._limits, self._tokenizer)

    async def Tokenize(
        self,
        request: inference_pb2.TokenizeRequest,
        context: grpc.aio.ServicerContext[
            inference_pb2.TokenizeRequest, inference_pb2.TokenizeResponse
        ],
    ) -> inference_pb2.TokenizeResponse:
        """See inference.proto."""
        try:
            return await asyncio.to_thread(tokenize, request, self._limits, self._tokenizer)
        except RequestError as error:
            await context.abort_with_status(to_status(error))

    async def _open(
        self, request: inference_pb2.GenerateRequest, context: GenerateContext
    ) -> Responses:
        if request.HasField("resume_from"):
            others = {field.name for field, _ in request.ListFields()} - _RESUME_FIELDS
            if others:
                raise InvalidRequestError("only request_id goes with it", field="resume_from")
            return self._resumables.resume(
                current_tenant(), request.request_id, request.resume_from
            )
        job = await self.parse(request)
        timeout_s = context.time_remaining()
        responses = self._respond(job, timeout_s)
        if not request.resumable:
            return responses
        try:
            return self._resumables.start(job.key, request, responses, timeout_s)
        except RequestError:
            self._admission.reject()
            raise

    async def _respond(self, job: Job, timeout_s: float | None) -> Responses:
        sequence = 0
        async with aclosing(self._journeys.run(job, timeout_s)) as deltas:
            async for delta in deltas:
                response = to_response(job, sequence, delta)
                if delta.summary is not None:
                    self._decisions.note_finished(job.key, delta.choice, response.finished)
                yield response
                sequence += 1

    async def parse(self, request: inference_pb2.GenerateRequest) -> Job:
        """The job that a request asks for. Raises RequestError, and counts it."""
        parse = partial(parse_request, request, self._limits, self._tokenizer)
        key = RequestKey(current_tenant(), request.request_id)
        if not (request.resumable and self._resumables.is_running(key)):
            self._admission.refuse_early(key.tenant, key.request_id)
        try:
            is_large = request.ByteSize() > _LARGE_BYTES
            job = await asyncio.to_thread(parse) if is_large else parse()
            if job.sampling.grammar is not None:
                await self._grammars.check(job.sampling.grammar)
            return job
        except RequestError:
            self._admission.reject()
            raise
