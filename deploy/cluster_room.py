"""Search for workers' places in Ray: which node has room, what is missing, and demand for it.

Where nodes may be waited for (`cluster.wait_for_nodes_s`), what is missing is demanded as a
placement group, which Ray's autoscaler sees. The group is given back as soon as it is there: the workers take
its place one by one, and leave one by one.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from common.config import ServeConfig
from common.messages import Role
from deploy.cluster_plan import Lack, NodeRoom, Wanted, describe_busy, find_lack, plan_places
from deploy.launched import Launched
from deploy.starting import NotReadyInTimeError, StartReport
from deploy.worker_needs import WorkerNeeds

_SETTLE_S = 5.0  # Ray tells late what a worker that ended has given back
_POLL_S = 0.25
_REMEDIES = {
    "GPU": "lower the number of workers, share GPUs by cluster.gpus_per_worker, or add GPUs",
    "CPU": "lower the number of workers, or add nodes",
}


class NoRoomError(NotReadyInTimeError):
    """No node has room for a worker; that says nothing about the worker."""


class ClusterRoom:
    """Room for one deployment's workers."""

    def __init__(self, config: ServeConfig, is_aborted: threading.Event) -> None:
        self._config = config
        self._is_aborted = is_aborted

    def needs(self) -> WorkerNeeds:
        """Return what workers need of the Ray that there is now."""
        return WorkerNeeds(self._config, ray.cluster_resources())

    def find(
        self, roles: Sequence[Role], there: Sequence[Launched], report: StartReport
    ) -> list[str]:
        """Return the id of a node for each worker; `there` are those that run already.

        Raises NoRoomError, which names what is missing.
        """
        needs = self.needs()
        wanted = [Wanted(role, needs.of(role)) for role in roles]
        places, lack = self._look(wanted, there)
        if lack is None:
            return places
        if not self._waits:
            raise NoRoomError(lack.text, self._remedy(lack))
        with _demanded(wanted) as group:
            self._await_nodes(group, lack, report)
            nodes: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
        # planned again, because the group knows neither roles nor the workers that are there
        places, lack = self._look(wanted, there)
        return places if lack is None else [nodes[index] for index in range(len(wanted))]

    @property
    def _waits(self) -> bool:
        """True if nodes may come later."""
        return self._config.ray_address is not None and self._config.cluster.waits_s > 0

    def _look(
        self, wanted: Sequence[Wanted], there: Sequence[Launched]
    ) -> tuple[list[str], Lack | None]:
        """Return each worker's place, "" for one that has none; and what is missing."""
        deadline_s = time.monotonic() + _SETTLE_S
        while True:
            nodes = self._nodes(there)
            places = plan_places(wanted, nodes, self._config.cluster.placement)
            if all(places):
                return places, None
            lack = find_lack(wanted, nodes)
            has_ended = time.monotonic() > deadline_s or self._is_aborted.wait(_POLL_S)
            if lack is not None or has_ended:
                return places, lack or describe_busy(wanted, places)

    def _await_nodes(self, group: PlacementGroup, lack: Lack, report: StartReport) -> None:
        """Return when the group has its nodes. Raises NoRoomError."""
        within_s = self._config.cluster.waits_s
        begun_s = time.monotonic()
        while not group.wait(_POLL_S):
            waited_s = time.monotonic() - begun_s
            report.now(f"waiting for nodes ({waited_s:.0f} s): {lack.text}")
            if self._is_aborted.is_set():
                raise NoRoomError(f"{lack.text}: interrupted")
            if waited_s > within_s:
                raise NoRoomError(
                    f"{lack.text}, and none came in {within_s:g} s", "look at `ray status`"
                )
        report.done(f"waiting for nodes took {time.monotonic() - begun_s:.1f} s")

    def _nodes(self, there: Sequence[Launched]) -> list[NodeRoom]:
        counts: dict[str, Counter[Role]] = {}
        for worker in there:
            if worker.home is not None:
                counts.setdefault(worker.home.node_id, Counter())[Role(worker.spec.role)] += 1
        free = available_resources_per_node()
        alive = [node for node in ray.nodes() if node["Alive"]]
        return [
            NodeRoom(key, node["Resources"], free.get(key, {}), counts.get(key, Counter()))
            for node in alive
            if (key := node["NodeID"])
        ]

    def _remedy(self, lack: Lack) -> str:
        remedy = _REMEDIES.get(lack.resource, "")
        if lack.resource in tuple(Role):
            remedy = f"start nodes of that role: ray start --resources='{{\"{lack.resource}\": 1}}'"
        if self._config.ray_address is None:
            return remedy
        waiting = "set cluster.wait_for_nodes_s where an autoscaler adds nodes"
        return f"{remedy}; {waiting}" if remedy else waiting


@contextmanager
def _demanded(wanted: Sequence[Wanted]) -> Iterator[PlacementGroup]:
    """Demand room for all these workers together, until the block ends."""
    group = placement_group([dict(worker.needs) for worker in wanted], strategy="SPREAD")
    try:
        yield group
    finally:
        remove_placement_group(group)
