"""First program of a worker's process, which becomes Ray's own worker at once.

Ray's program for this imports all of Ray, 0.7 s of a core, to look at a runtime environment that our
workers do not have. This one runs as a script and imports the standard library alone.
"""

import os
import sys

_CONTEXT, _LANGUAGE = "--serialized-runtime-env-context=", "--language="
_EMPTY = ("", "{}")


def main(arguments: list[str]) -> None:
    """Replace this process by the worker, or by Ray's setup program if there is an environment."""
    contexts = [one.removeprefix(_CONTEXT) for one in arguments if one.startswith(_CONTEXT)]
    if any(context not in _EMPTY for context in contexts):
        setup = os.path.join(os.path.dirname(arguments[0]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, setup, *arguments])  # noqa: S606 - no shell is wanted
    worker = [one for one in arguments if not one.startswith((_CONTEXT, _LANGUAGE))]
    os.execv(sys.executable, [sys.executable, *worker])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
