"""What requests are called on workers: unique over all routers that share them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkIds:
    """The names that one router gives."""

    router_id: str

    def of(self, request_id: str) -> str:
        """A request's name, and that of the group of its choices."""
        return f"{self.router_id}/{request_id}"

    def of_choices(self, request_id: str, num_choices: int) -> list[str]:
        """The names of its choices, in their order."""
        work_id = self.of(request_id)
        if num_choices == 1:
            return [work_id]
        return [f"{work_id}#{choice}" for choice in range(num_choices)]

    def public(self, work_id: str) -> str:
        """The name that clients know; of another router's request all of it."""
        return work_id.removeprefix(f"{self.router_id}/")
