"""Trials in forked children, so that each has a time limit and none can hurt another.

The parent has imported torch and `transformers` and has run no thread of theirs; a child costs milliseconds.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.survey.outcome import Outcome

_CPU_LIMIT_S = 120  # of its one thread, so that a busy machine changes no verdict
_WAIT_LIMIT_S = 3600.0  # a child that waits for something takes no CPU
_MEMORY_BYTES = 12 << 30  # address space, most of it mapped libraries
_POLL_S = 0.05

Trial = Callable[[str, Path], Outcome]


@dataclass(frozen=True, slots=True)
class _Child:
    kind: str
    pid: int
    started_s: float
    answer: Path


def run_all(kinds: Iterable[str], trial: Trial, num_children: int) -> Iterator[Outcome]:
    """Yield the outcome of each type, in the order in which they end."""
    waiting = list(kinds)
    running: list[_Child] = []
    with tempfile.TemporaryDirectory() as scratch:
        while waiting or running:
            while waiting and len(running) < num_children:
                kind = waiting.pop(0)
                running.append(_start(kind, trial, Path(scratch)))
            for child in list(running):
                if (outcome := _poll(child)) is not None:
                    running.remove(child)
                    yield outcome
            time.sleep(_POLL_S)


def _start(kind: str, trial: Trial, scratch: Path) -> _Child:
    answer = scratch / f"{kind}.json"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be_child(kind, trial, answer)
    return _Child(kind, pid, time.monotonic(), answer)


def _be_child(kind: str, trial: Trial, answer: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S + 1))
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    code = 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            outcome = trial(kind, Path(folder))
        answer.write_text(json.dumps(asdict(outcome)))
        code = 0
    finally:
        os._exit(code)  # never back into the parent's code


def _poll(child: _Child) -> Outcome | None:
    """Return the outcome of a child that has ended or whose time is over."""
    pid, status = os.waitpid(child.pid, os.WNOHANG)
    if pid == 0:
        if time.monotonic() - child.started_s < _WAIT_LIMIT_S:
            return None
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        return Outcome(child.kind, "not built", reason=f"no end within {_WAIT_LIMIT_S:g} s")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return Outcome(
            child.kind, "not built", reason=f"no end within {_CPU_LIMIT_S} s of CPU time"
        )
    if status != 0 or not child.answer.exists():
        return Outcome(child.kind, "failed", reason=f"its process ended with status {status}")
    return Outcome(**json.loads(child.answer.read_text()))
