"""Our top-level names are common words: a foreign package may stand in front of ours.

Imports nothing of ours, so that it can still run when that has happened.
"""

import importlib.util
import sys
from pathlib import Path

OURS = ("common", "router", "prefill_worker", "decode_worker", "deploy", "cli", "pdserve")
HOME = Path(__file__).resolve().parent.parent


def refuse_foreign_packages() -> None:
    """End the process with one line when there is one; anything else would end in an odd traceback."""
    for name, origin in foreign_packages().items():
        print(f"pdserve: {name} is imported from {origin}; {remedy(name)}", file=sys.stderr)
        sys.exit(2)


def foreign_packages() -> dict[str, Path | None]:
    """Our names that lead elsewhere, and where to; None: nowhere."""
    origins = {name: _origin(name) for name in OURS}
    return {
        name: origin
        for name, origin in origins.items()
        if origin is None or HOME not in origin.parents
    }


def remedy(name: str) -> str:
    """What to do about one of them."""
    return f"a foreign package named '{name}' shadows pdserve's; use a venv of its own"


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve() if spec and spec.origin else None
