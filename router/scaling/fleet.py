"""Interface to the owner of the workers' processes; a deployment implements it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.messages import Role
from pdserve.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """Longest times, in seconds: of a start, and of the flip or stop of one worker."""

    start_s: float = 60.0
    step_s: float = 60.0


class Fleet(Protocol):
    """Starts, flips and stops worker processes. The router drains a worker before a flip or stop."""

    @property
    def limits(self) -> FleetLimits:
        """Longest times that the calls below may take; a change that takes longer is given up."""

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """Start workers of these roles, all or none; return their gRPC addresses by name.

        Raises PreconditionError when there is no room for them, or one does not start.
        """

    async def flip(self, worker: str, role: Role) -> None:
        """Give a worker another role. Raises PreconditionError."""

    async def stop(self, worker: str) -> None:
        """End a worker's process, if it still runs and is ours."""

    async def restart(self, worker: str, address: str, reason: str) -> None:
        """Kill a worker's process, and start it again as after a death; `reason` goes to the log.

        Does nothing if the process at `address` is gone already.
        """


class FixedFleet:
    """Fleet of a router that did not start its workers: it can only let them go."""

    limits = FleetLimits()

    async def start(self, roles: Sequence[Role]) -> Mapping[str, str]:
        """Raise PreconditionError."""
        raise PreconditionError("this router cannot start workers: it did not start those it has")

    async def flip(self, worker: str, role: Role) -> None:
        """Raise PreconditionError."""
        raise PreconditionError(f"this router cannot flip {worker}: it did not start it")

    async def stop(self, worker: str) -> None:
        """Do nothing: the process is not ours."""

    async def restart(self, worker: str, address: str, reason: str) -> None:
        """Do nothing: the process is not ours."""
