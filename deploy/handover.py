"""Handover of what a process is to a copy of the template, which goes on in its place.

1. The process connects, and waits for the template's greeting.
2. It sends its arguments, environment, folder, signals and limits, and its open input and output.
3. The copy takes them over, imports what it must import by itself, and says so. The process ends.
4. Where the greeting does not come in time, or the copy ends before 3., the process goes on by itself.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ADDRESS = "PDSERVE_TEMPLATE"  # variable with the path of the template's socket
_WORD = b"\n"  # of the template as its greeting, and of the copy
_GREETED_WITHIN_S = 20.0  # Ray gives a process a minute to register, and it may have to import all
_SENT_WITHIN_S = 10.0
IMPORTED_WITHIN_S = 40.0  # by a copy, before it says so
_BEGUN_WITHIN_S = IMPORTED_WITHIN_S + 5
_CHUNK_BYTES = 65536
_PEER = struct.Struct("3i")  # process, user, group
_STANDARD = (0, 1, 2)
_OOM_SCORE = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True, slots=True)
class Origin:
    """State of a process, besides its open files; sent as JSON."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    files_limit: tuple[int, int]
    blocked: list[int]  # signals
    oom_score: str


def hand_over(address: str, arguments: Sequence[str]) -> bool:
    """Have a copy of the template run a program with `arguments`; return False if this process must."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_GREETED_WITHIN_S)
            connection.connect(address)
            if _user_of(connection) != os.getuid():  # it would be told this process's secrets
                return False
            if connection.recv(1) != _WORD:
                return False
            connection.settimeout(_SENT_WITHIN_S)
            origin = json.dumps(asdict(_origin(arguments))).encode()
            num_sent = socket.send_fds(connection, [origin], _STANDARD)
            connection.sendall(origin[num_sent:])
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(_BEGUN_WITHIN_S)
            return _has_begun(connection)
    except OSError as error:
        print(f"no template: {error}", file=sys.stderr)
        return False


def _user_of(connection: socket.socket) -> int:
    """Return the user whose process listens."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, user, _ = _PEER.unpack(found)
    return int(user)


def _has_begun(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == _WORD
    except TimeoutError:  # it may still begin, and there must not be two
        return True


def take_over(connection: socket.socket) -> tuple[Origin, list[int]]:
    """Greet a process; return what it is, and its open files. Raises OSError, ValueError."""
    connection.settimeout(_SENT_WITHIN_S)
    connection.sendall(_WORD)
    content, files, _, _ = socket.recv_fds(connection, _CHUNK_BYTES, len(_STANDARD))
    try:
        while chunk := connection.recv(_CHUNK_BYTES):
            content += chunk
        return Origin(**json.loads(content)), files
    except BaseException:
        close(files)
        raise


def become(origin: Origin, files: Sequence[int]) -> None:
    """Make this process like the one that was handed over."""
    os.setpgid(0, 0)  # as Ray has it: with a worker it kills all of its group
    for standard, file in zip(_STANDARD, files, strict=True):
        os.dup2(file, standard)
    close(files)
    os.environ.clear()
    os.environ.update(origin.environment)
    os.chdir(origin.folder)
    resource.setrlimit(resource.RLIMIT_NOFILE, origin.files_limit)
    signal.pthread_sigmask(signal.SIG_SETMASK, origin.blocked)
    _OOM_SCORE.write_text(origin.oom_score)
    sys.argv = origin.arguments
    sys.path[0] = os.path.dirname(sys.argv[0])


def confirm(connection: socket.socket) -> None:
    """Tell the process that was handed over that it may end."""
    with connection, contextlib.suppress(OSError):  # it waits no more, and has ended
        connection.sendall(_WORD)


def close(files: Sequence[int]) -> None:
    """Close open files by their numbers."""
    for file in files:
        os.close(file)


def _origin(arguments: Sequence[str]) -> Origin:
    return Origin(
        arguments=list(arguments),
        environment=dict(os.environ),
        folder=os.getcwd(),
        files_limit=resource.getrlimit(resource.RLIMIT_NOFILE),
        blocked=list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        oom_score=_OOM_SCORE.read_text(),
    )
