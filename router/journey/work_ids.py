"""Names of requests on workers, unique over all routers that share the workers, and over time.

A request's id may come again as soon as the request has ended here. Its worker may still send
outputs of the old request then, so names are numbered.
"""

from collections import OrderedDict
from itertools import count

_MAX_REMEMBERED = 4096


class WorkIds:
    """Names that one router gives, and the last name of each request."""

    def __init__(self, router_id: str) -> None:
        """Take the router's id, which has no "/"."""
        self._router_id = router_id
        self._numbers = count()
        self._latest: OrderedDict[str, str] = OrderedDict()

    def begin(self, request_id: str) -> str:
        """Return a new name for a request, which is also that of the group of its choices."""
        work_id = self._latest[request_id] = f"{self._router_id}/{next(self._numbers)}/{request_id}"
        self._latest.move_to_end(request_id)
        if len(self._latest) > _MAX_REMEMBERED:
            self._latest.popitem(last=False)
        return work_id

    def find(self, request_id: str) -> str | None:
        """Return the last name of a request; None when it is forgotten."""
        return self._latest.get(request_id)

    def to_public(self, work_id: str) -> str:
        """Return the request id that clients know; another router's name stays whole."""
        router_id, _, rest = work_id.partition("/")
        return rest.partition("/")[2] if router_id == self._router_id else work_id


def attempt_name(name: str, attempt: int) -> str:
    """Return the name of a choice's attempt; late outputs of an earlier one have another name."""
    return f"{name}~{attempt}" if attempt > 1 else name


def choice_names(work_id: str, num_choices: int) -> list[str]:
    """Return the names of a request's choices, in order."""
    return (
        [f"{work_id}#{choice}" for choice in range(num_choices)] if num_choices > 1 else [work_id]
    )
