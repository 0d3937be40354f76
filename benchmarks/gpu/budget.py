"""The time that a run may take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_MARGIN_S = 15.0  # for what comes after the last part: tables, file, picture


@dataclass(slots=True)
class Budget:
    """Counts from its making. Parts that would begin too late are left out, and named."""

    limit_s: float
    announce: Callable[[str], None]  # is told what begins
    left_out: list[str] = field(default_factory=list)
    _start_s: float = field(default_factory=time.monotonic)

    @property
    def remaining_s(self) -> float:
        """For parts that have yet to run; negative when it is over."""
        return self.limit_s - _MARGIN_S - (time.monotonic() - self._start_s)

    def allows(self, part: str, needs_s: float) -> bool:
        """Whether a part that takes about `needs_s` may begin; otherwise it is noted as left out."""
        if self.remaining_s < needs_s:
            self.left_out.append(part)
            return False
        self.announce(part)
        return True
