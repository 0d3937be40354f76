"""Named points at which a test makes a process fail; inactive unless PDSERVE_FAILPOINTS names them."""

import os
from functools import cache


def value(name: str) -> str | None:
    """Return a failpoint's value ("name=value,other=value" in PDSERVE_FAILPOINTS); None: inactive."""
    return _active().get(name)


@cache
def _active() -> dict[str, str]:
    given = os.environ.get("PDSERVE_FAILPOINTS", "")
    pairs = (part.partition("=") for part in given.split(",") if part)
    return {name: text for name, _, text in pairs}
