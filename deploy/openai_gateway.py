"""OpenAI's HTTP API: the gateway smg in front of the router's vLLM contract, as a child process.

1. `start` runs the child (openai_child.py) and returns when it answers; SetupError if it ends
   instead.
2. If the child dies later, the death is logged and a new one starts on the same port, after a
   growing pause.
3. smg reads keys and certificates only at its start: when they change, it is stopped and restarted.
4. `stop` ends the child within seconds; if this process dies, the kernel ends the child.

smg has one worker, the router, which does admission and placement itself. All of smg's own
decisions about workers are switched off.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import socket
import ssl
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from common.telemetry.logs import get_logger
from deploy.openai_access import OpenAiAccess
from pdserve.errors import SetupError
from router.access.reloading import Reloading

_POLL_S = 0.05
_ASK_TIMEOUT_S = 1.0
_LOOK_AGAIN_S = 1.0
_STOP_TIMEOUT_S = 3.0
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.1, 10.0
_MAX_LINE_BYTES = 2**20
_OPTIONS = (
    "--policy=round_robin",
    "--disable-retries",
    "--disable-circuit-breaker",
    "--disable-health-check",
    "--disable-load-monitoring",
    "--disable-worker-overload-protection",
    "--worker-stale-secs=0",
    "--worker-wedge-secs=86400",
    "--max-concurrent-requests=0",
    "--history-backend=none",
    "--shutdown-grace-period-secs=1",
    "--prometheus-host=127.0.0.1",
    "--log-level=error",
    "--log-json",
)
_log = get_logger()


class OpenAiGateway:
    """Owner of the child process. Call all methods on one event loop."""

    def __init__(
        self,
        grpc_address: str,
        host: str,
        port: int,
        options: str = "",
        access: Reloading[OpenAiAccess] | None = None,
    ) -> None:
        """Take the router's address and the gateway's own.

        `port` 0 means any free port. `options` are further options of smg, on one line, and may
        replace ours. Without `access`, everybody who can reach the port may call.
        """
        self._grpc_address = grpc_address
        self._access = access or Reloading([], OpenAiAccess)
        self._granted = self._access.current()
        self._options = (*_OPTIONS, *shlex.split(options))
        self._host = host
        self.port = port or _free_port(host)
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._last_words = ""

    async def start(self, timeout_s: float) -> None:
        """Start the child; return when it can serve the model. Raises SetupError."""
        await self._launch()
        try:
            await self._await_ready(timeout_s)
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise(timeout_s))

    async def stop(self) -> None:
        """End the child, if there is one."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        process = self._process
        if process is None:
            return
        await self._terminate(process)

    async def _supervise(self, timeout_s: float) -> None:
        pause_s = _MIN_PAUSE_S
        while True:
            if self._process is not None:
                await self._until_over(self._process)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
            try:
                await self._launch()
                await self._await_ready(timeout_s)
            except (OSError, SetupError) as error:
                _log.error("openai_gateway_not_restarted", reason=str(error))
                if self._process is not None:
                    await self._end(self._process)
            else:
                pause_s = _MIN_PAUSE_S
                _log.info("openai_gateway_restarted")

    async def _until_over(self, process: Process) -> None:
        """Return when the child has died, or was ended because the access has changed."""
        while process.returncode is None:
            if self._access.current() != self._granted:
                _log.info("openai_gateway_renewed")
                await self._terminate(process)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await process.wait()
        await self._end(process)
        _log.error("openai_gateway_died", code=process.returncode, last_words=self._last_words)

    async def _launch(self) -> None:
        self._last_words = ""
        self._granted = self._access.current()
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "deploy.openai_child"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            limit=_MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C is for the router, which lets requests end
        )
        self._reader = asyncio.create_task(self._read(process))
        if process.stdin is not None:  # stdin is a pipe; its type allows None
            process.stdin.write(json.dumps([os.getpid(), *self._arguments()]).encode() + b"\n")

    def _arguments(self) -> list[str]:
        return [
            f"--host={self._host}",
            f"--port={self.port}",
            f"--worker-urls=grpc://{self._grpc_address}",
            f"--prometheus-port={_free_port('127.0.0.1')}",
            # locks smg's own control plane, which could add workers: nobody knows this key
            f"--control-plane-api-keys=pdserve:pdserve:admin:{secrets.token_urlsafe(32)}",
            *self._granted.arguments(),
            *self._options,
        ]

    async def _await_ready(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not await asyncio.to_thread(self._is_ready):
                    if self._process is not None and self._process.returncode is not None:
                        raise SetupError(
                            f"smg ended with code {self._process.returncode}: {self._last_words}",
                            "unset openai_port to go on without it",
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise SetupError(
                f"smg was not ready in {timeout_s} s: {self._last_words}", "raise start_timeout_s"
            ) from None

    def _is_ready(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        connection = self._connect(host)
        try:
            connection.request("GET", "/readiness")
            with (
                connection.getresponse() as response
            ):  # closing only the connection would leave the socket open
                return response.status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _connect(self, host: str) -> HTTPConnection:
        if self._granted.certificate is None:
            return HTTPConnection(host, self.port, timeout=_ASK_TIMEOUT_S)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the request carries no secret, so any server may answer
        context.verify_mode = ssl.CERT_NONE
        return HTTPSConnection(host, self.port, timeout=_ASK_TIMEOUT_S, context=context)

    async def _read(self, process: Process) -> None:
        """Log the child's messages, and keep the last line to explain its death."""
        while process.stdout is not None:
            try:
                line = (await process.stdout.readline()).decode(errors="replace")
            except ValueError:  # a line longer than the limit
                continue
            if not line:
                return
            try:
                record = json.loads(line)
                self._last_words = str(record["message"])
                said, reason = self._last_words, record.get("error")
                _log.warning("openai_gateway", said=said, reason=reason)
            except (ValueError, KeyError, TypeError):  # the banner, or the last words
                self._last_words = line.strip() or self._last_words

    async def _terminate(self, process: Process) -> None:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process.wait()
        await self._end(process)

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if self._reader is not None:
            await self._reader
        self._process = None


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
