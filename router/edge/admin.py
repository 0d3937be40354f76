"""The gRPC edge for operators, pdserve.v1.Admin: translates and calls."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import NoReturn, Protocol

import grpc

from common.rpc.convert import load_to_pb, role_to_pb
from common.rpc.status import to_status
from common.telemetry.logs import get_logger
from pdserve.errors import InternalError, InvalidRequestError, RequestError
from pdserve.v1 import admin_pb2, admin_pb2_grpc
from router.admission.admission import Outcome
from router.edge.block_ledgers import BlockLedgers
from router.edge.router_state import RouterState
from router.scaling.scaler import ScaleAction, Scaler
from router.workers.view import WorkerState, WorkerView

_DRAIN_TIMEOUT_S = 300.0
_STATES = {
    WorkerState.READY: admin_pb2.WORKER_STATE_READY,
    WorkerState.STALLED: admin_pb2.WORKER_STATE_STALLED,
    WorkerState.UNREACHABLE: admin_pb2.WORKER_STATE_UNREACHABLE,
    WorkerState.DRAINING: admin_pb2.WORKER_STATE_DRAINING,
    WorkerState.RESTARTING: admin_pb2.WORKER_STATE_RESTARTING,
    WorkerState.RETIRED: admin_pb2.WORKER_STATE_RETIRED,
}
_ACTIONS = {
    ScaleAction.STARTING: admin_pb2.SCALE_ACTION_STARTING,
    ScaleAction.STARTED: admin_pb2.SCALE_ACTION_STARTED,
    ScaleAction.DRAINING: admin_pb2.SCALE_ACTION_DRAINING,
    ScaleAction.FLIPPED: admin_pb2.SCALE_ACTION_FLIPPED,
    ScaleAction.STOPPED: admin_pb2.SCALE_ACTION_STOPPED,
}
_log = get_logger()


class AdminService(admin_pb2_grpc.AdminServicer):
    """pdserve.v1.Admin."""

    def __init__(
        self, model: str, state: RouterState, scaler: Scaler, ledgers: BlockLedgers
    ) -> None:
        self._model = model
        self._state = state
        self._scaler = scaler
        self._ledgers = ledgers

    async def Blocks(
        self,
        request: admin_pb2.BlocksRequest,
        context: grpc.aio.ServicerContext[admin_pb2.BlocksRequest, admin_pb2.BlocksResponse],
    ) -> admin_pb2.BlocksResponse:
        """Return the KV block ledgers of all workers."""
        return admin_pb2.BlocksResponse(
            workers=await self._ledgers.read_all(is_check=request.check)
        )

    async def Status(
        self,
        request: admin_pb2.StatusRequest,
        context: grpc.aio.ServicerContext[admin_pb2.StatusRequest, admin_pb2.StatusResponse],
    ) -> admin_pb2.StatusResponse:
        """Return the account of requests and the state of every worker."""
        admission = self._state.admission
        router = admin_pb2.RouterStatus(
            model=self._model,
            requests_in_flight=admission.num_in_flight,
            requests_queued=admission.num_queued,
            totals=admin_pb2.Outcomes(
                accepted=admission.accepted,
                completed=admission.ended[Outcome.COMPLETED],
                cancelled=admission.ended[Outcome.CANCELLED],
                failed=admission.ended[Outcome.FAILED],
                rejected=admission.rejected,
            ),
            adds_up=admission.adds_up,
        )
        workers = [_worker_status(view) for view in self._state.pool.views()]
        return admin_pb2.StatusResponse(router=router, workers=workers)

    async def Scale(
        self,
        request: admin_pb2.ScaleRequest,
        context: grpc.aio.ServicerContext[admin_pb2.ScaleRequest, admin_pb2.ScaleResponse],
    ) -> AsyncIterator[admin_pb2.ScaleResponse]:
        """Change the numbers of workers, and stream each step."""
        prefill = request.prefill if request.HasField("prefill") else None
        decode = request.decode if request.HasField("decode") else None
        try:
            timeout_s = _drain_timeout_s(request.drain_timeout_us, "drain_timeout_us")
            async with aclosing(self._scaler.scale(prefill, decode, timeout_s)) as steps:
                async for step in steps:
                    yield admin_pb2.ScaleResponse(
                        action=_ACTIONS[step.action],
                        worker=step.worker,
                        role=role_to_pb(step.role),
                    )
        except Exception as error:
            await _fail(context, error)

    async def Drain(
        self,
        request: admin_pb2.DrainRequest,
        context: grpc.aio.ServicerContext[admin_pb2.DrainRequest, admin_pb2.DrainResponse],
    ) -> admin_pb2.DrainResponse:
        """Let a worker finish its work and leave."""
        try:
            timeout_s = _drain_timeout_s(request.timeout_us, "timeout_us")
            await self._scaler.drain(request.worker, timeout_s)
        except Exception as error:
            await _fail(context, error)
        return admin_pb2.DrainResponse()


class _CanAbort(Protocol):
    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status, as grpc.aio.ServicerContext does."""


async def _fail(context: _CanAbort, error: Exception) -> NoReturn:
    if not isinstance(error, RequestError):
        _log.error("scale_failed", exc_info=error)
        error = InternalError(f"unexpected {type(error).__name__}")
    await context.abort_with_status(to_status(error))


def _drain_timeout_s(microseconds: int, field: str) -> float:
    if microseconds < 0:
        raise InvalidRequestError(f"{microseconds} is negative", field=field)
    return microseconds / 1e6 or _DRAIN_TIMEOUT_S


def _worker_status(view: WorkerView) -> admin_pb2.WorkerStatus:
    return admin_pb2.WorkerStatus(
        name=view.info.name,
        role=role_to_pb(view.info.role),
        pid=view.info.pid,
        incarnation=view.info.incarnation,
        state=_STATES[view.state],
        address=view.address,
        load=load_to_pb(view.load) if view.is_connected else None,
        dtype=view.info.dtype,
        dtype_reason=view.info.dtype_reason,
        note=view.note,
    )
