"""Servers of one GGUF file: pdserve, llama.cpp's `llama-server`, and that of llama-cpp-python."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from benchmarks.llama_cpp.text_target import TextTarget
from benchmarks.pdserve_server import deployment

_START_TIMEOUT_S = 120.0
_SLOT_TOKENS = 512  # the longest prompt and answer of the benchmark have 320
_SPECIAL_TOKENS = 17  # of the default model; llama.cpp ends an answer at several of them
_PDSERVE = {"ignore_eos": True}
_LLAMA_SERVER = {"ignore_eos": True, "cache_prompt": False}
_LLAMA_CPP_PYTHON = {
    "logit_bias": {str(token): -100 for token in range(_SPECIAL_TOKENS)},
    "repeat_penalty": 1.0,  # it penalises repetition by default; the others do not
}


@contextlib.asynccontextmanager
async def pdserve(file: Path) -> AsyncGenerator[TextTarget]:
    """Serve the file on all cores: one worker that prefills and decodes; all requests may wait."""
    port = _free_port()
    arguments = (str(file), "--prefill", "0", "--openai-port", str(port))
    async with deployment(*arguments, PDSERVE_ROUTER__MAX_WAIT_S="0"):
        yield TextTarget(f"http://127.0.0.1:{port}", file.stem, _PDSERVE)


@contextlib.asynccontextmanager
async def llama_server(binary: Path, users: int, file: Path) -> AsyncGenerator[TextTarget]:
    """Serve the file with llama.cpp's own server, on all cores, a slot for each of the users.

    It batches continuously. Nothing is kept of a prompt: prompts are new, and keeping costs it.
    """
    options = {
        "model": file,
        "threads": _cores(),
        "parallel": users,
        "ctx-size": users * _SLOT_TOKENS,
        "cache-ram": 0,
        "slot-prompt-similarity": 0,
    }
    command = [str(binary), *_arguments(options), "--no-webui", "--offline"]
    async with _serving(command, "/health") as url:
        yield TextTarget(url, file.stem, _LLAMA_SERVER)


@contextlib.asynccontextmanager
async def llama_cpp_python(python: Path, file: Path) -> AsyncGenerator[TextTarget]:
    """Serve the file with the package's server, on all cores: one request after the other."""
    options = {
        "model": file,
        "n_ctx": 2048,
        "n_threads": _cores(),
        "n_threads_batch": _cores(),
        "logits_all": "false",  # by default it computes and copies those of whole prompts
        "interrupt_requests": "false",  # by default a new request ends the running one
        "verbose": "false",
    }
    command = [str(python), "-m", "llama_cpp.server", *_arguments(options)]
    async with _serving(command, "/v1/models") as url:
        yield TextTarget(url, str(file), _LLAMA_CPP_PYTHON)


async def llama_server_version(binary: Path) -> str:
    """Return the first line that the server says about its version."""
    return await _first_line(str(binary), "--version")


async def llama_cpp_python_version(python: Path) -> str:
    """Return the package's version."""
    return await _first_line(str(python), "-c", "import llama_cpp; print(llama_cpp.__version__)")


@contextlib.asynccontextmanager
async def _serving(command: Sequence[str], ready_path: str) -> AsyncGenerator[str]:
    """Run a server on a free port; yield its URL when a GET of the path succeeds."""
    port = _free_port()
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(*command, "--host", "127.0.0.1", "--port", str(port)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            if not await _is_ready(process, port, ready_path):
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RuntimeError(f"{command[0]} ended with {process.returncode}: {last}")
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _is_ready(process: asyncio.subprocess.Process, port: int, path: str) -> bool:
    """Wait until a GET succeeds; return whether the process still runs. Raises TimeoutError."""
    async with asyncio.timeout(_START_TIMEOUT_S):
        while process.returncode is None:
            with contextlib.suppress(OSError):
                if await _status(port, path) == b"200":
                    return True
            await asyncio.sleep(0.1)
    return False


async def _status(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        )
        _, _, rest = (await reader.readline()).partition(b" ")
        return rest[:3]
    finally:
        writer.close()


async def _first_line(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return out.decode(errors="replace").partition("\n")[0]


def _arguments(options: Mapping[str, object]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
