"""The requests that are under way in this router, for those who watch it."""

from collections.abc import Iterator

from router.journey.live_request import LiveRequest


class LiveRequests:
    """Admitted requests that have not ended, in the order of their arrival."""

    def __init__(self) -> None:
        self._requests: dict[LiveRequest, None] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[LiveRequest]:
        return iter(self._requests)

    def add(self, request: LiveRequest) -> None:
        """Add a request that was let in; `remove` must follow."""
        self._requests[request] = None

    def remove(self, request: LiveRequest) -> None:
        """Remove a request that has ended."""
        del self._requests[request]
