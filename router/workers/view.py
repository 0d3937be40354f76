"""A worker as the router sees it, for status, metrics and plans."""

from dataclasses import dataclass
from enum import StrEnum

from common.messages import WorkerInfo, WorkerLoad


class WorkerState(StrEnum):
    """State of a worker, as the router sees it."""

    READY = "ready"
    STALLED = "stalled"
    UNREACHABLE = "unreachable"
    DRAINING = "draining"
    RESTARTING = "restarting"  # its process is gone, and another starts
    RETIRED = "retired"  # its process is gone, and none starts


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker for status and metrics."""

    info: WorkerInfo
    load: WorkerLoad
    state: WorkerState
    address: str
    is_connected: bool
    note: str = ""  # why it is retired
    num_restarts: int = 0  # processes that took its name since this router started
    is_silent: bool = False  # for SILENT_AFTER_S or longer

    @property
    def is_coming_back(self) -> bool:
        """True while its deployment starts it again."""
        return self.state is WorkerState.RESTARTING
