"""What a router may do with a deployment's processes; Ray's calls block, so they run in threads."""

import asyncio
from collections.abc import Mapping, Sequence

from common.messages import Role
from deploy.deployment import Deployment
from pdserve.errors import PreconditionError, SetupError


class DeploymentFleet:
    """router.scaling.fleet.Fleet."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """See Fleet.start."""
        try:
            return await asyncio.to_thread(self._deployment.add, roles)
        except SetupError as error:
            raise PreconditionError(str(error)) from error

    async def flip(self, worker: str, role: Role) -> None:
        """See Fleet.flip."""
        try:
            await asyncio.to_thread(self._deployment.flip, worker, role)
        except SetupError as error:
            raise PreconditionError(str(error)) from error

    async def stop(self, worker: str) -> None:
        """See Fleet.stop."""
        await asyncio.to_thread(self._deployment.remove, worker)
