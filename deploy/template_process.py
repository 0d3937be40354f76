"""Program of the template (template.py): it imports, then forks for whoever asks, and runs in each copy."""

import contextlib
import gc
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from deploy.handover import Origin, become, close, take_over
from deploy.quick_ray import put_off_rarely_used

_STDIN = 0
_THREADS = "/proc/self/task"


def main(listener: socket.socket, import_all: Callable[[], object]) -> None:
    """Serve as the template; in a copy, run the program that was handed over."""
    gc.disable()
    import_all()
    if len(os.listdir(_THREADS)) > 1:
        sys.exit("a copy would lack the threads that an import has started")
    gc.collect()
    gc.freeze()  # a collection would write to the memory that copies share
    sys.stdout.flush()  # or each copy would write it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that copies that end leave nothing behind
    origin, files, connection = _copies(listener)
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()
    become(origin, files, connection)
    put_off_rarely_used()
    runpy.run_path(sys.argv[0], run_name="__main__")


def _import_all(model_dir: Path, engine: str) -> None:
    """Import what workers need, but Ray: its import reads the environment, and each has its own."""
    from common.config import EngineConfig
    from deploy.engine_import import import_builder

    import_builder(model_dir, EngineConfig.model_validate_json(engine))


def _copies(listener: socket.socket) -> tuple[Origin, list[int], socket.socket]:
    """Fork for each process that asks; return in the copies alone, with what each shall become."""
    while True:
        ready, _, _ = select.select([listener.fileno(), _STDIN], [], [])
        if _STDIN in ready:
            _leave(listener)
        connection, _ = listener.accept()
        with connection:
            try:
                origin, files = take_over(connection)
            except (OSError, ValueError):  # it has given up
                continue
            # no memory, or too many processes: who asks goes on by itself
            with contextlib.suppress(OSError):
                if os.fork() == 0:
                    return origin, files, connection.dup()
            close(files)


def _leave(listener: socket.socket) -> NoReturn:
    """End with the process that started this one, which may have been killed and left its folder."""
    address = Path(listener.getsockname())
    with contextlib.suppress(OSError):
        address.unlink()
        address.parent.rmdir()
    os._exit(0)


if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.__file__)  # our folder has modules with others' names
    main(
        socket.socket(fileno=int(sys.argv[1])), lambda: _import_all(Path(sys.argv[2]), sys.argv[3])
    )
