"""Check for foreign packages that shadow ours, whose top-level names are common words in a checkout.

A wheel has all of them inside `pdserve`. Imports nothing of ours, so that it still works when a
package is shadowed.
"""

import importlib.util
import sys
from pathlib import Path

_IS_WHEEL = __name__ != "cli.shadowing"
_IN_CHECKOUT = ("common", "router", "prefill_worker", "decode_worker", "deploy", "cli", "pdserve")
OURS = ("pdserve",) if _IS_WHEEL else _IN_CHECKOUT
HOME = Path(__file__).resolve().parents[3 if _IS_WHEEL else 1]


def refuse_foreign_packages() -> None:
    """Exit with one line if a package is shadowed, instead of with an odd traceback."""
    for name, origin in foreign_packages().items():
        print(f"pdserve: {name} is imported from {origin}; {remedy(name)}", file=sys.stderr)
        sys.exit(2)


def foreign_packages() -> dict[str, Path | None]:
    """Return our names that resolve to foreign files, with these files; None: not found."""
    origins = {name: _origin(name) for name in OURS}
    return {
        name: origin
        for name, origin in origins.items()
        if origin is None or HOME not in origin.parents
    }


def remedy(name: str) -> str:
    """Return the remedy for one shadowed name."""
    return f"a foreign package named '{name}' shadows pdserve's; use a venv of its own"


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve() if spec and spec.origin else None
