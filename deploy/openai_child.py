"""The process of the OpenAI gateway: smg, whose life ends with that of the process that started it."""

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)
# whatever smg wants of a model is in its folder or comes from the router: it must not ask a hub
_NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent"}


def main() -> None:
    """Run smg with the arguments on stdin, where nobody else can read them.

    They are one line of JSON, led by the pid of the process that started this one.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    starter, *arguments = json.loads(sys.stdin.readline())
    if os.getppid() != starter:  # it died before the call above
        sys.exit(1)
    os.environ.update(_NO_HUB)
    from smg.cli import main as smg

    smg(["launch", *arguments])


if __name__ == "__main__":
    main()
