"""The seam to whoever owns the workers' processes; a deployment implements it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from common.messages import Role
from pdserve.errors import PreconditionError


class Fleet(Protocol):
    """Starts, flips and stops worker processes. The router drains a worker first."""

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """Start workers of these roles; their gRPC addresses by name. All of them or none.

        Raises PreconditionError when there is no room for them, or one does not start.
        """

    async def flip(self, worker: str, role: Role) -> None:
        """Give a worker another role. Raises PreconditionError."""

    async def stop(self, worker: str) -> None:
        """End a worker's process, if it still lives and is ours."""


class FixedFleet:
    """For a router that did not start its workers: it can let them go, and nothing else."""

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """See Fleet.start."""
        raise PreconditionError("this router cannot start workers: it did not start those it has")

    async def flip(self, worker: str, role: Role) -> None:
        """See Fleet.flip."""
        raise PreconditionError(f"this router cannot flip {worker}: it did not start it")

    async def stop(self, worker: str) -> None:
        """See Fleet.stop."""
