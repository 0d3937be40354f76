"""A worker's gRPC server, on an asyncio loop in a thread of its own beside the engine's thread."""

import asyncio
import threading
from concurrent.futures import Future

import grpc

from common.certificates import OPEN, WorkerAccess
from common.rpc.channel import WORKER_SERVER_OPTIONS
from common.rpc.guard import GuardInterceptor, one_token
from common.rpc.internal_tls import server_credentials
from common.rpc.worker_port import WorkerPort
from common.rpc.worker_service import LEASE_S, WorkerService
from pdserve.v1 import worker_pb2_grpc

_START_TIMEOUT_S = 10.0


class WorkerHost:
    """Serves one worker on `host`, at a port that the system picks."""

    def __init__(
        self,
        worker: WorkerPort,
        host: str,
        access: WorkerAccess = OPEN,
        lease_s: float = LEASE_S,
    ) -> None:
        """Serve routers that show what `access` asks for; serve every caller where that is nothing.

        For `lease_s` the worker keeps the requests of a router whose connection broke.
        """
        self._worker = worker
        self._lease_s = lease_s
        self._certificates = access.certificates
        self._guards = [GuardInterceptor(one_token(access.token))] if access.token else []
        self._host = host
        self._started: Future[int] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="worker-grpc", daemon=True)
        self._stop = asyncio.Event()

    def start(self) -> str:
        """Start serving; return the address, host:port."""
        self._thread.start()
        return f"{self._host}:{self._started.result(_START_TIMEOUT_S)}"

    def stop(self, timeout_s: float) -> None:
        """Stop serving and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            # a Runner ends what gRPC leaves running before it closes the loop
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)  # start() raises it

    async def _serve(self) -> None:
        service = WorkerService(self._worker, self._lease_s)
        server = grpc.aio.server(interceptors=self._guards, options=WORKER_SERVER_OPTIONS)
        worker_pb2_grpc.add_WorkerServicer_to_server(service, server)
        address = f"{self._host}:0"
        if self._certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, server_credentials(self._certificates))
        await server.start()
        self._started.set_result(port)
        await self._stop.wait()
        await server.stop(grace=0.5)
        service.close()
