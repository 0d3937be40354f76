"""The contract of `vllm serve --grpc`: vllm.grpc.engine.VllmEngine of the package smg-grpc-proto.

Generate makes the same Job and the same journey as pdserve.v1.Inference; Abort is Cancel.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import grpc
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc
from smg_grpc_proto.generated import common_pb2

from common.rpc.status import to_status
from common.telemetry.logs import get_logger
from common.telemetry.tracing.caller import note_caller
from pdserve.errors import InternalError, NotFoundError, RequestCancelledError, RequestError
from router.access.tenant import current_tenant
from router.edge.router_state import RouterState
from router.edge.slow_client import Delivery
from router.edge.vllm.info import SERVER_TYPE, loads, model_info, tokenizer_chunks
from router.edge.vllm.request import in_vllm_terms, to_pdserve
from router.edge.vllm.response import Answers
from router.intake.intake import Intake
from router.journey.journey import Journeys

SERVICE_NAME = "vllm.grpc.engine.VllmEngine"
_log = get_logger()

Context = grpc.aio.ServicerContext[Any, Any]  # the package's messages have no types


class VllmEngineService(vllm_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]  # the package has no types
    """vllm.grpc.engine.VllmEngine. Unsupported methods answer UNIMPLEMENTED with a reason."""

    def __init__(
        self,
        model_dir: Path,
        intake: Intake,
        journeys: Journeys,
        state: RouterState,
        slow_client_s: float,
    ) -> None:
        self._model_dir = model_dir
        self._model_info = model_info(model_dir, intake.limits)
        self._intake = intake
        self._journeys = journeys
        self._state = state
        self._slow_client_s = slow_client_s
        self._started_s = time.monotonic()

    async def Generate(self, request: vllm_pb2.GenerateRequest, context: Context) -> None:
        """Answer with chunks and one Complete a choice; after Abort its reason is "abort"."""
        note_caller("text_completion", context.invocation_metadata() or ())
        try:
            await self._generate(request, context)
        except RequestError as error:
            await context.abort_with_status(to_status(in_vllm_terms(error)))
        except Exception as error:
            _log.exception("generate_failed")
            failure = InternalError(f"unexpected {type(error).__name__}")
            await context.abort_with_status(to_status(failure))

    async def Abort(
        self, request: vllm_pb2.AbortRequest, context: Context
    ) -> vllm_pb2.AbortResponse:
        """End these requests; a request that no longer runs is no error."""
        for request_id in request.request_ids:
            with suppress(NotFoundError):
                self._journeys.cancel(current_tenant(), request_id)
        return vllm_pb2.AbortResponse()

    async def HealthCheck(
        self, request: vllm_pb2.HealthCheckRequest, context: Context
    ) -> vllm_pb2.HealthCheckResponse:
        """Return the health: some decode worker takes work, and the router does not drain."""
        healthy = self._state.can_serve()
        message = "serving" if healthy else "no decode worker is ready, or the router drains"
        return vllm_pb2.HealthCheckResponse(healthy=healthy, message=message)

    async def GetModelInfo(
        self, request: vllm_pb2.GetModelInfoRequest, context: Context
    ) -> vllm_pb2.GetModelInfoResponse:
        """Return the served model."""
        return self._model_info

    async def GetServerInfo(
        self, request: vllm_pb2.GetServerInfoRequest, context: Context
    ) -> vllm_pb2.GetServerInfoResponse:
        """Return the router's state. Fields for pairing are unset: the router pairs its workers."""
        views = self._state.pool.views()
        return vllm_pb2.GetServerInfoResponse(
            active_requests=self._state.admission.num_in_flight,
            uptime_seconds=time.monotonic() - self._started_s,
            server_type=SERVER_TYPE,
            data_parallel_size=1,
            block_size=views[-1].load.block_size if views else 0,
            constrained_decoding_start="first_token",
        )

    async def GetLoads(
        self, request: vllm_pb2.GetLoadsRequest, context: Context
    ) -> vllm_pb2.GetLoadsResponse:
        """Return the load of all decode workers together."""
        return loads(self._state.pool.views())

    async def GetTokenizer(
        self, request: common_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        """Stream the model's tokenizer files, zipped."""
        chunks = await asyncio.to_thread(lambda: list(tokenizer_chunks(self._model_dir)))
        for chunk in chunks:
            yield chunk

    async def Embed(self, request: vllm_pb2.EmbedRequest, context: Context) -> None:
        """Answer UNIMPLEMENTED."""
        await _refuse(context, "Embed: pdserve generates text; it has no embeddings")

    async def FlushCache(self, request: common_pb2.FlushCacheRequest, context: Context) -> None:
        """Answer UNIMPLEMENTED."""
        await _refuse(context, "FlushCache: give requests a cache_salt of their own instead")

    async def StartProfile(self, request: common_pb2.StartProfileRequest, context: Context) -> None:
        """Answer UNIMPLEMENTED."""
        await _refuse(context, "StartProfile: use pdserve.v1.Inference/Explain, or py-spy")

    async def StopProfile(self, request: common_pb2.StopProfileRequest, context: Context) -> None:
        """Answer UNIMPLEMENTED."""
        await _refuse(context, "StopProfile: no profile can be started")

    async def SubscribeKvEvents(
        self, request: common_pb2.SubscribeKvEventsRequest, context: Context
    ) -> None:
        """Answer UNIMPLEMENTED."""
        await _refuse(context, "SubscribeKvEvents: this router places requests by its prefix index")

    async def _generate(self, request: vllm_pb2.GenerateRequest, context: Context) -> None:
        with self._intake.counting_refusals(request.request_id):
            translated = to_pdserve(request, self._intake.limits.defaults)
        job = await self._intake.parse(translated)
        answers, delivery = Answers(job, stream=request.stream), Delivery(self._slow_client_s)
        try:
            async with aclosing(self._journeys.run(job, context.time_remaining())) as deltas:
                async for delta in deltas:
                    for answer in answers.take(delta):
                        await delivery.deliver(context.write(answer))
        except RequestCancelledError:
            for answer in answers.abort():
                await delivery.deliver(context.write(answer))


async def _refuse(context: Context, message: str) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
