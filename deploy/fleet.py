"""A deployment's processes as the router's fleet; Ray's calls block, so they run in threads."""

import asyncio
from collections.abc import Mapping, Sequence

from common.messages import Role
from deploy.remote_supervisor import CHANGE_WITHIN_S, RemoteSupervisor
from pdserve.errors import PreconditionError, SetupError
from router.scaling.fleet import FleetLimits


class DeploymentFleet:
    """Implementation of router.scaling.fleet.Fleet."""

    def __init__(self, supervisor: RemoteSupervisor) -> None:
        self._supervisor = supervisor
        self.limits = FleetLimits(supervisor.start_within_s, CHANGE_WITHIN_S)

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """Start workers; return their addresses by name."""
        try:
            return await asyncio.to_thread(self._supervisor.add, roles)
        except SetupError as error:
            raise PreconditionError(str(error)) from error

    async def flip(self, worker: str, role: Role) -> None:
        """Give a worker another role."""
        try:
            await asyncio.to_thread(self._supervisor.flip, worker, role)
        except SetupError as error:
            raise PreconditionError(str(error)) from error

    async def stop(self, worker: str) -> None:
        """Stop a worker."""
        await asyncio.to_thread(self._supervisor.remove, worker)

    async def restart(self, worker: str, address: str, reason: str) -> None:
        """Kill a worker's process, and start it again as after a death."""
        await asyncio.to_thread(self._supervisor.restart, worker, address, reason)
