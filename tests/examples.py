"""Numbers of examples that hypothesis tries: few in `make test`, more in `make test-slow`."""

import os

_TIMES = int(os.environ.get("EXAMPLES_TIMES", "1"))


def examples(number: int) -> int:
    """Return the number of examples; `make test-slow` sets EXAMPLES_TIMES, and has so many times more."""
    return number * _TIMES
