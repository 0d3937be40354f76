"""Watch of Ray, and of a cluster's head (GCS), without which nothing can be started again.

A head may be away for a moment: where its state is kept outside, it is started again. Without one Ray
ends this process after a minute, in the midst of requests. So the deployment ends before that, in
order and with the reason.
"""

import asyncio
from collections.abc import Callable

from deploy.ray_session import head_address, lost_process
from deploy.ray_token import cluster_id
from pdserve.errors import RayLostError

_RAY_POLL_S = 0.5
_EVERY_S = 2.0
MAX_SILENT = 10  # questions in a row, counted so that a busy machine blames nobody

AskHead = Callable[[], bytes | None]


class HeadWatch:
    """Asks a head who it is, again and again: `ask` returns the cluster's id, None if none answers.

    It may block for a second, and runs in a thread.
    """

    def __init__(self, ask: AskHead) -> None:
        self._ask = ask
        self._cluster_id: bytes | None = None
        self._num_silent = 0

    async def look(self) -> str:
        """Ask once; return why the cluster is lost, "" while it is not.

        A head that never answered is not missed: it may speak TLS.
        """
        cluster_id = await asyncio.to_thread(self._ask)
        if cluster_id is None:
            self._num_silent += 1
            is_lost = self._cluster_id is not None and self._num_silent >= MAX_SILENT
            return f"did not answer {self._num_silent} times" if is_lost else ""
        self._num_silent = 0
        known, self._cluster_id = self._cluster_id or cluster_id, cluster_id
        return "" if known == cluster_id else "was started anew without what it knew"


async def until_ray_is_lost() -> None:
    """Wait for ever, or raise RayLostError: without Ray nothing can be started again.

    Without its head (GCS) Ray would end this process after a minute, in the midst of requests.
    """
    if head := head_address():
        watch = HeadWatch(lambda: cluster_id(head))
        while not (reason := await watch.look()):
            await asyncio.sleep(_EVERY_S)
        who, remedy = f"Ray's head at {head} {reason}", "start the cluster, and serve again"
    else:
        while not (lost := lost_process()):
            await asyncio.sleep(_RAY_POLL_S)
        who, remedy = (
            f"Ray's process {lost} died",
            "look into Ray's session folder, and serve again",
        )
    raise RayLostError(f"{who}, and with it this deployment", remedy)
