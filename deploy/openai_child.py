"""Child process of the OpenAI gateway smg; it ends when its parent process ends."""

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)
# smg finds all of a model in its folder or in the router: it must not ask a hub
_NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent"}


def main() -> None:
    """Run smg with the arguments on stdin, which other users cannot read.

    The input is one line of JSON: the parent's pid, then the arguments.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    starter, *arguments = json.loads(sys.stdin.readline())
    if os.getppid() != starter:  # the parent died before the call above
        sys.exit(1)
    os.environ.update(_NO_HUB)
    from smg.cli import main as smg

    smg(["launch", *arguments])


if __name__ == "__main__":
    main()
