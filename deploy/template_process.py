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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.low_priority import run_beside_others
from deploy.handover import IMPORTED_WITHIN_S, Origin, become, close, confirm, take_over
from deploy.quick_ray import put_off_rarely_used

_STDIN = 0
_THREADS = "/proc/self/task"


@dataclass(frozen=True, slots=True)
class _Copy:
    origin: Origin
    files: list[int]
    connection: socket.socket
    is_first: bool  # of those that begin together; others serve when a later one begins


def main(
    listener: socket.socket,
    import_all: Callable[[], object],
    import_rest: Callable[[], object],
    num_first: int,
) -> None:
    """Serve as the template; in a copy, run the program that was handed over.

    Each copy begins with `import_rest`, gently after the first `num_first`.
    """
    gc.disable()
    import_all()
    if len(os.listdir(_THREADS)) > 1:
        sys.exit("a copy would lack the threads that an import has started")
    gc.collect()
    gc.freeze()  # a collection would write to the memory that copies share
    sys.stdout.flush()  # or each copy would write it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that copies that end leave nothing behind
    copy = _next_copy(listener, num_first)
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()
    become(copy.origin, copy.files)
    import_rest() if copy.is_first else run_beside_others(import_rest, IMPORTED_WITHIN_S)
    confirm(copy.connection)  # from here Ray alone notices its end, after a minute
    runpy.run_path(sys.argv[0], run_name="__main__")


def _import_all(model_dir: Path, engine: str) -> None:
    """Import what workers need, but Ray: its import reads the environment, and each has its own."""
    from common.config import EngineConfig
    from deploy.engine_import import import_builder

    import_builder(model_dir, EngineConfig.model_validate_json(engine))


def _import_ray() -> None:
    put_off_rarely_used()
    import ray  # noqa: F401 - its time is expected here


def _next_copy(listener: socket.socket, num_first: int) -> _Copy:
    """Fork for each process that asks; return in the copies alone, with what each shall become."""
    num_copies = 0
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
                    return _Copy(origin, files, connection.dup(), num_copies < num_first)
                num_copies += 1
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
    listening, folder, settings, first = sys.argv[1:]
    main(
        socket.socket(fileno=int(listening)),
        lambda: _import_all(Path(folder), settings),
        _import_ray,
        int(first),
    )
