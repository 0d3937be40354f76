"""What requests are called on workers: unique over all routers that share them, and over time.

A request's id may come again as soon as the request has ended here, when its worker may still have a word to
say of the old one: so names are numbered.
"""

from collections import OrderedDict
from itertools import count

_MAX_REMEMBERED = 4096


class WorkIds:
    """The names that one router gives, and which a request had last."""

    def __init__(self, router_id: str) -> None:
        """`router_id` holds no "/"."""
        self._router_id = router_id
        self._numbers = count()
        self._latest: OrderedDict[str, str] = OrderedDict()

    def begin(self, request_id: str) -> str:
        """A request's name from now on, and that of the group of its choices."""
        work_id = self._latest[request_id] = f"{self._router_id}/{next(self._numbers)}/{request_id}"
        self._latest.move_to_end(request_id)
        if len(self._latest) > _MAX_REMEMBERED:
            self._latest.popitem(last=False)
        return work_id

    def find(self, request_id: str) -> str | None:
        """The last name of a request, unless it is forgotten."""
        return self._latest.get(request_id)

    def to_public(self, work_id: str) -> str:
        """The name that clients know; of another router's request all of it."""
        router_id, _, rest = work_id.partition("/")
        return rest.partition("/")[2] if router_id == self._router_id else work_id


def choice_names(work_id: str, num_choices: int) -> list[str]:
    """The names of a request's choices, in their order."""
    return (
        [f"{work_id}#{choice}" for choice in range(num_choices)] if num_choices > 1 else [work_id]
    )
