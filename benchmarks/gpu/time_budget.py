"""Time budget of a run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_MARGIN_S = 15.0  # for the work after the last part: tables, file, picture


@dataclass(slots=True)
class Budget:
    """Time budget that starts when created; parts that do not fit are recorded as left out."""

    limit_s: float
    announce: Callable[[str], None]  # called with the name of each part that begins
    left_out: list[str] = field(default_factory=list)
    _start_s: float = field(default_factory=time.monotonic)

    @property
    def remaining_s(self) -> float:
        """The seconds left for further parts; negative after the end."""
        return self.limit_s - _MARGIN_S - (time.monotonic() - self._start_s)

    def allows(self, part: str, needs_s: float) -> bool:
        """Return True if a part of about `needs_s` may begin; otherwise record it as left out."""
        if self.remaining_s < needs_s:
            self.left_out.append(part)
            return False
        self.announce(part)
        return True
