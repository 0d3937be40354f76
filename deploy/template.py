"""Template of a private Ray's processes: one that has imported what they need, and that they are copies of.

1. `running_template` starts it before Ray. It imports torch and all else while Ray starts.
2. Ray begins a process for the supervisor and for each worker, at the start and later. That process
   (ray_worker_setup.py) hands what it is over to the template, and ends when a copy has begun.
3. The template forks. The copy imports Ray, gently where others serve already, and goes on as Ray's worker.
   It registers with its own process id.
4. Where no template answers, the process becomes the worker itself, and imports by itself.
5. The template ends with the process that started it, also when that is killed.

A copy of a process has none of its threads, so the template must have none. Nothing that it imports starts
one, except OpenBLAS, which ends its own before a fork. A GPU's driver does not survive a fork: where there is
one, workers begin without a template.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

from common.config import ServeConfig
from common.machine import has_gpu
from common.telemetry.logs import get_logger
from deploy.handover import ADDRESS
from deploy.quick_ray import is_tried

_PROGRAM = Path(__file__).with_name("template_process.py")
_NUM_LINES = 5  # of what a template that ended early has told
_WAITING = 128  # processes that wait for it while it imports


@contextlib.contextmanager
def running_template(config: ServeConfig, model_dir: Path) -> Iterator[None]:
    """Have the private Ray that is started inside take its processes from a template, where one is of use."""
    with contextlib.ExitStack() as stack:
        if _is_useful(config):
            with contextlib.suppress(OSError):  # no folder, or one with too long a path
                stack.enter_context(_running(config, model_dir))
        yield


def count_processes(config: ServeConfig) -> int:
    """Return how many processes a start takes from Ray: the supervisor, and workers."""
    return 1 + config.prefill + config.decode


def _is_useful(config: ServeConfig) -> bool:
    has_cpus = config.engine.device == "cpu" or (config.engine.device == "auto" and not has_gpu())
    is_private = config.ray_address is None and is_tried(version("ray"))
    return sys.platform == "linux" and has_cpus and is_private


@contextlib.contextmanager
def _running(config: ServeConfig, model_dir: Path) -> Iterator[None]:
    # the folder is this user's alone: whoever reaches the socket runs code in the copies
    with (
        tempfile.TemporaryDirectory(prefix="pdserve-", ignore_cleanup_errors=True) as folder,
        socket.socket(socket.AF_UNIX) as listener,
        tempfile.TemporaryFile() as errors,
    ):
        address = str(Path(folder) / "template")
        listener.bind(address)
        listener.listen(_WAITING)
        engine = config.engine.model_dump_json()
        facts = [str(listener.fileno()), str(model_dir), engine, str(count_processes(config))]
        process = _start(listener, facts, errors)
        listener.close()  # so that nobody waits for a template that has died
        os.environ[ADDRESS] = address
        try:
            yield
        finally:
            os.environ.pop(ADDRESS, None)
            if (code := process.poll()) is not None:
                get_logger().warning("template_ended", code=code, told=_last_lines(errors))
            process.kill()  # it has nothing to lose
            process.communicate()


def _start(
    listener: socket.socket, facts: Sequence[str], errors: IO[bytes]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, str(_PROGRAM), *facts],
        stdin=subprocess.PIPE,  # whose end tells it that this process is gone
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[listener.fileno()],
        process_group=0,  # Ctrl-C is for this process, which ends workers in order
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # copies set their own number of threads
    )


def _last_lines(errors: IO[bytes]) -> list[str]:
    errors.seek(0)
    return errors.read().decode(errors="replace").splitlines()[-_NUM_LINES:]
