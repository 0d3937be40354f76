"""The gRPC edge for clients, pdserve.v1.Inference: translates, calls, maps errors to statuses."""

import asyncio
from contextlib import aclosing
from typing import TypeAlias

import grpc

from common.rpc.status import to_status
from common.telemetry.logs import get_logger
from common.telemetry.tracing.caller import note_caller
from pdserve.errors import InternalError, InvalidRequestError, RequestError
from pdserve.failover import SENT_AGAIN
from pdserve.v1 import inference_pb2, inference_pb2_grpc
from router.access.tenant import RequestKey, current_tenant
from router.edge.explain import Explainer
from router.edge.models import list_models, tokenize
from router.edge.responses import to_response
from router.edge.resume import Responses, Resumables
from router.edge.slow_client import Delivery
from router.intake.intake import Intake
from router.intake.job import Job
from router.intake.sampling import values_in_use
from router.journey.journey import Journeys

# marks of a call that gRPC itself, or a client, sends again, since nothing of the answer has come
_SENT_AGAIN = ("grpc-previous-rpc-attempts", SENT_AGAIN)
_RESUME_FIELDS = {"request_id", "resume_from"}
_log = get_logger()

GenerateContext: TypeAlias = grpc.aio.ServicerContext[
    inference_pb2.GenerateRequest, inference_pb2.GenerateResponse
]


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """pdserve.v1.Inference."""

    def __init__(
        self,
        intake: Intake,
        journeys: Journeys,
        explainer: Explainer,
        resumables: Resumables,
        slow_client_s: float,
    ) -> None:
        self._intake = intake
        self._journeys = journeys
        self._explainer = explainer
        self._resumables = resumables
        self._slow_client_s = slow_client_s

    # the stubs know only generators; a coroutine that writes can give up on a slow client
    async def Generate(  # type: ignore[override]
        self, request: inference_pb2.GenerateRequest, context: GenerateContext
    ) -> None:
        """Stream a request's answer."""
        is_chat = request.HasField("chat")
        note_caller("chat" if is_chat else "text_completion", context.invocation_metadata() or ())
        delivery = Delivery(self._slow_client_s)
        try:
            async with aclosing(await self._open(request, context)) as responses:
                async for response in responses:
                    await delivery.deliver(context.write(response))
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
        """End a running request of the caller."""
        try:
            self._journeys.cancel(current_tenant(), request.request_id)
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
        """Return the decision that placed a request, and its end."""
        try:
            return await self._explainer.explain(current_tenant(), request.request_id)
        except RequestError as error:
            await context.abort_with_status(to_status(error))

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[
            inference_pb2.ListModelsRequest, inference_pb2.ListModelsResponse
        ],
    ) -> inference_pb2.ListModelsResponse:
        """Return the served model with its limits and defaults."""
        return list_models(self._intake.limits, self._intake.tokenizer)

    async def Tokenize(
        self,
        request: inference_pb2.TokenizeRequest,
        context: grpc.aio.ServicerContext[
            inference_pb2.TokenizeRequest, inference_pb2.TokenizeResponse
        ],
    ) -> inference_pb2.TokenizeResponse:
        """Return the tokens of a prompt."""
        limits, tokenizer = self._intake.limits, self._intake.tokenizer
        try:
            return await asyncio.to_thread(tokenize, request, limits, tokenizer)
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
        key = RequestKey(current_tenant(), request.request_id)
        if request.resumable and _is_sent_again(context):
            answer = self._resumables.read_again(key, request)
            if answer is not None:
                return answer
        is_repeat = request.resumable and self._resumables.is_running(key)
        job = await self._intake.parse(request, is_repeat=is_repeat)
        if request.received:
            await self._resumables.displace(job.key, request)
        timeout_s = context.time_remaining()
        responses = self._respond(job, timeout_s, tells_sampling=request.resumable)
        if not request.resumable:
            return responses
        with self._intake.counting_refusals(job.request_id):
            return self._resumables.start(job.key, request, responses, timeout_s)

    async def _respond(
        self, job: Job, timeout_s: float | None, *, tells_sampling: bool
    ) -> Responses:
        sequence = 0
        async with aclosing(self._journeys.run(job, timeout_s)) as deltas:
            async for delta in deltas:
                response = to_response(job, sequence, delta)
                if tells_sampling and not sequence:
                    response.sampling.CopyFrom(values_in_use(job.sampling))
                yield response
                sequence += 1


def _is_sent_again(context: GenerateContext) -> bool:
    return any(name in _SENT_AGAIN for name, _ in context.invocation_metadata() or ())
