"""First program of a worker's process, which becomes Ray's own worker at once.

Ray's program for this imports all of Ray, 0.7 s of a core, to look at a runtime environment that our
workers do not have. This one runs as a script, and imports little. Where there is a template, a copy of that
becomes the worker instead (template.py).
"""

import os
import runpy
import sys

from deploy.handover import ADDRESS, hand_over
from deploy.quick_ray import put_off_rarely_used

_CONTEXT, _LANGUAGE = "--serialized-runtime-env-context=", "--language="
_EMPTY = ("", "{}")


def main(arguments: list[str]) -> None:
    """Become the worker, or Ray's setup program if there is an environment."""
    contexts = [one.removeprefix(_CONTEXT) for one in arguments if one.startswith(_CONTEXT)]
    if any(context not in _EMPTY for context in contexts):
        setup = os.path.join(os.path.dirname(arguments[0]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, setup, *arguments])  # noqa: S606 - no shell is wanted
    worker = [one for one in arguments if not one.startswith((_CONTEXT, _LANGUAGE))]
    if worker[0].startswith("-"):  # options of the interpreter
        os.execv(sys.executable, [sys.executable, *worker])  # noqa: S606
    if (template := os.environ.get(ADDRESS)) and hand_over(template, worker):
        return
    put_off_rarely_used()
    sys.argv, sys.path[0] = worker, os.path.dirname(worker[0])
    runpy.run_path(worker[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
