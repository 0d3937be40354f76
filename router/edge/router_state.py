"""State of the router that health checks, status and load reports read."""

from dataclasses import dataclass

from router.admission.admission import Admission
from router.workers.pool import WorkerPool


@dataclass(frozen=True, slots=True)
class RouterState:
    """The account of requests and the workers behind it."""

    admission: Admission
    pool: WorkerPool

    def can_serve(self) -> bool:
        """Return True while some decode worker can take work and the router does not drain."""
        return not self.admission.is_draining and self.pool.is_ready()
