"""A Ray node's object store, divided among the workers on that node without a coordinator.

1. A worker keeps a file of Ray's session folder locked while it lives; the system unlocks it when the
   process ends, for whatever reason.
2. Every `_REFRESH_S` each worker counts the locked files of its node, and divides the cap by that number. So
   it sees workers that are added, removed or killed, also those of other deployments.
3. At the same time it asks the raylet for its store's size and the bytes spilled.
"""

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import TextIO

import ray
from ray._private import internal_api
from ray._private import worker as ray_worker
from ray.core.generated.node_manager_pb2 import GetNodeStatsReply

from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

_REFRESH_S = 2.0
_ANSWER_WITHIN_S, _AGAIN_S = 60.0, 0.5  # a question alone may take Ray 30 s


class RayNodeStore:
    """Object store of the node that this process runs on."""

    def __init__(self, worker: str, namespace: str, share: float) -> None:
        """Take part as `worker`, unique in `namespace`; KV may take `share` of the store.

        Raises SetupError when the raylet does not answer within `_ANSWER_WITHIN_S`.
        """
        self._share = share
        node_id = ray.get_runtime_context().get_node_id()
        node = next(n for n in ray.nodes() if n["NodeID"] == node_id)
        self._raylet = node["NodeManagerAddress"], node["NodeManagerPort"]
        self._marks = Path(ray_worker._global_node.get_session_dir_path()) / f"pdserve-{node_id}"
        self._marks.mkdir(exist_ok=True)
        self._mark = _lock(self._marks / _mark_name(namespace, worker, os.getpid()))
        self._share_bytes = self._spilled_bytes = 0
        self._refresh_at_last()
        threading.Thread(target=self._run, name="node-store", daemon=True).start()

    def share_bytes(self) -> int:
        """Return this worker's part of the store, as of the last look (NodeStore)."""
        return self._share_bytes

    def spilled_bytes(self) -> int:
        """Return the bytes spilled, as of the last look (NodeStore)."""
        return self._spilled_bytes

    def close(self) -> None:
        """Leave this worker's part to the others."""
        self._mark.close()

    def _run(self) -> None:
        never, is_known = threading.Event(), True
        while not never.wait(_REFRESH_S) and not self._mark.closed:
            try:
                self._refresh()
                is_known = True
            except Exception as error:  # the raylet is busy or ending: the last numbers stay valid
                if is_known:
                    get_logger().warning("node_store_unknown", error=repr(error))
                is_known = False

    def _refresh_at_last(self) -> None:
        """Look for the first time. A raylet that starts many processes may take long to answer."""
        deadline_s = time.monotonic() + _ANSWER_WITHIN_S
        while True:
            try:
                return self._refresh()
            except Exception as error:
                if time.monotonic() > deadline_s:
                    message = f"Ray's raylet on this node does not answer: {_brief(error)}"
                    raise SetupError(
                        message, "start again, or look into the node's load"
                    ) from error
            time.sleep(_AGAIN_S)

    def _refresh(self) -> None:
        reply: GetNodeStatsReply = internal_api.node_stats(*self._raylet, include_memory_info=False)
        stats = reply.store_stats
        num_workers = sum(_is_locked(mark) for mark in list(self._marks.iterdir()))
        self._share_bytes = int(self._share * stats.object_store_bytes_avail) // max(num_workers, 1)
        self._spilled_bytes = stats.spilled_bytes_total


def _mark_name(namespace: str, worker: str, pid: int) -> str:
    """Return a name of this process alone: one before it that hangs would keep the lock, for 5 s."""
    return f"{namespace}.{worker}.{pid}"


def _lock(path: Path) -> TextIO:
    """Return the file at `path`, locked; make it again if another process removed it before."""
    while True:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(path, file):
            return file
        file.close()


def _is_locked(path: Path) -> bool:
    """Return True if a living process locks the file; remove a file that nobody locks.

    A lock of this process counts too, since it is held by another descriptor.
    """
    try:
        with path.open() as file:
            # shared: two that look at the same time must not take each other for the owner
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            _remove(path, file)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _remove(path: Path, file: TextIO) -> None:
    """Remove the file, unless another process looks at it or locks it; a later look removes it then."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, file):  # and stays there: whoever removes a file holds this lock
            path.unlink()


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _brief(error: Exception) -> str:
    """Return an error as one line: one of gRPC has several."""
    return " ".join(str(error).split()) or repr(error)
