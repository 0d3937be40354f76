"""Servers of one GGUF file: llama.cpp's, of the package llama-cpp-python, and pdserve."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.llama_cpp.text_target import TextTarget
from benchmarks.pdserve_server import deployment

_START_TIMEOUT_S = 120.0
_EOS = 2  # of the default model; both servers have to go on after it


@contextlib.asynccontextmanager
async def pdserve(file: Path) -> AsyncGenerator[TextTarget]:
    """Serve the file on all cores: one worker that prefills and decodes."""
    port = _free_port()
    async with deployment(str(file), "--prefill", "0", "--openai-port", str(port)):
        yield TextTarget(f"http://127.0.0.1:{port}", file.stem, {"ignore_eos": True})


@contextlib.asynccontextmanager
async def llama_cpp(python: Path, file: Path) -> AsyncGenerator[TextTarget]:
    """Serve the file on all cores; `python` has llama-cpp-python[server]."""
    port, cores = _free_port(), len(os.sched_getaffinity(0))
    options = {
        "model": file,
        "port": port,
        "n_ctx": 2048,
        "n_threads": cores,
        "n_threads_batch": cores,
        "interrupt_requests": "false",
        "verbose": "false",
    }
    args = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    process = await asyncio.create_subprocess_exec(
        str(python),
        "-m",
        "llama_cpp.server",
        *args,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _listening(process, port)
        bias = {"logit_bias": {str(_EOS): -100}}
        yield TextTarget(f"http://127.0.0.1:{port}", str(file), bias)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def version(python: Path) -> str:
    """Return the package's version."""
    code = "import json, llama_cpp; print(json.dumps(llama_cpp.__version__))"
    process = await asyncio.create_subprocess_exec(
        python, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found: str = json.loads(out)
    return found


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until a server listens. Raises RuntimeError, TimeoutError."""
    async with asyncio.timeout(_START_TIMEOUT_S):
        while process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"llama.cpp's server ended with {process.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
