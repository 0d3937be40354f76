"""Router that authenticates its callers, over one scripted worker, and calls of every kind."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from common.certificates import OPEN, WorkerAccess
from common.config import SecurityConfig
from common.router_config import RouterConfig
from common.rpc.worker_host import WorkerHost
from router.access.access_file import access_line, make_token
from router.access.server_security import ServerSecurity
from router.access.tenant import Tenant
from router.app import Router
from tests.certificates import touch_later
from tests.integration.support.router_stack import HOST, MODEL
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.patience import WITHIN_S

ACME, ZETA, OPS = Tenant("acme"), Tenant("zeta"), Tenant("ops", is_admin=True)
Metadata = tuple[tuple[str, str | bytes], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def issue(file: Path, *tenants: Tenant, lines: Iterable[str] = ()) -> dict[str, str]:
    """Write an access file; return the tokens by tenant."""
    tokens = {tenant.name: make_token() for tenant in tenants}
    written = [access_line(tenant, tokens[tenant.name]) for tenant in tenants]
    file.write_text("\n".join([*written, *lines]))
    touch_later(file)
    return tokens


@asynccontextmanager
async def guarded(
    model_dir: Path,
    worker: ScriptedWorker,
    security: SecurityConfig,
    access: WorkerAccess = OPEN,
    config: RouterConfig | None = None,
) -> AsyncIterator[Router]:
    """Yield a router over the worker, not started yet."""
    host = WorkerHost(worker, HOST, access)
    router = Router(
        MODEL,
        model_dir,
        [host.start()],
        config or RouterConfig(),
        None,
        ServerSecurity(security),
        access,
    )
    try:
        yield router
    finally:
        await router.stop(0.0)
        await asyncio.to_thread(host.stop, WITHIN_S)


async def start(router: Router) -> str:
    """Start the router; return its address."""
    return f"{HOST}:{await router.start(HOST, 0, 0, WITHIN_S)}"


async def methods_of(channel: grpc.aio.Channel, metadata: Metadata) -> list[tuple[str, bool]]:
    """Return every method of the server, by reflection, and True if it takes a stream."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # aio's too
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in stub.ServerReflectionInfo(iter([request]), metadata=metadata):
        names = [service.name for service in response.list_services_response.service]
        return [method for name in names for method in _methods(name)]
    raise AssertionError("no answer")


async def outcome(
    channel: grpc.aio.Channel, method: tuple[str, bool], metadata: Metadata, data: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """Call a method with this message, or with an empty stream.

    Returns the code, and the reason in its ErrorInfo.
    """
    name, is_stream = method
    raw: Any = channel  # calls bytes
    try:
        # sends nothing: an aio client that still sends when the answer arrives reports INTERNAL
        call = raw.stream_stream(name) if is_stream else raw.unary_stream(name)
        async for _ in call(iter(()) if is_stream else data, metadata=metadata, timeout=WITHIN_S):
            break
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error)
    return grpc.StatusCode.OK, ""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason of the error's ErrorInfo; "" if there is none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # documented to take an RpcError too
    info = error_details_pb2.ErrorInfo()
    found = [info.reason for detail in status.details if detail.Unpack(info)] if status else []
    return found[0] if found else ""


def _methods(service: str) -> Iterator[tuple[str, bool]]:
    for method in Default().FindServiceByName(service).methods:
        yield f"/{service}/{method.name}", method.client_streaming
