"""Silence of a worker, counted in turns of the router's own event loop."""

TICK_S = 0.5
SILENT_AFTER_S = 5.0  # workers report every second
_MAX_TICKS = int(SILENT_AFTER_S / TICK_S)


class Silence:
    """Count of ticks since a worker was last heard. `tick` comes every TICK_S, or later.

    A tick that is late counts as one: a router whose loop stood still, or whose machine is slow, has
    not listened meanwhile, and must not blame the worker.
    """

    def __init__(self) -> None:
        self._num_ticks = 0

    def heard(self) -> None:
        """Note a message of the worker."""
        self._num_ticks = 0

    def tick(self) -> bool:
        """Count one tick; return True when the worker becomes silent with it."""
        self._num_ticks += 1
        return self._num_ticks == _MAX_TICKS

    @property
    def is_long(self) -> bool:
        """True if the worker has said nothing for too long."""
        return self._num_ticks >= _MAX_TICKS
