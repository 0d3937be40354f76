"""Workers of a deployment as its owner tells routers of them. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that is wanted. A process that starts again has the same name and another address."""

    name: str
    address: str = ""  # of its gRPC server; "" while no process serves
    retired: str = ""  # why it is not started again; "" if it is


@dataclass(frozen=True, slots=True)
class Membership:
    """All wanted workers at one moment. A later one has a greater version."""

    version: int = 0
    members: tuple[Member, ...] = ()

    def find(self, name: str) -> Member | None:
        """Return the member of that name; None if there is none."""
        return next((member for member in self.members if member.name == name), None)
