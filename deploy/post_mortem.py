"""Diagnosis of a worker's death from its last output and from Ray's error.

The worker's parent is Ray or the template, and neither passes on the exit status. A signal that a process can
catch leaves its name in the log (Ray's handler, Python's faulthandler). Our own exits leave a line.
No trace means SIGKILL.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")
_MAX_WORDS = 300  # characters quoted
_NUM_LAST = 20  # last lines in which a known reason is searched
# text that the handlers write when a signal ends the process, before their tracebacks
_SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) received|Fatal Python error: (.*)")
_FATAL = {
    "Aborted": "SIGABRT",
    "Segmentation fault": "SIGSEGV",
    "Illegal instruction": "SIGILL",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
}
_RAYS_OWN = (":job_id:", ":actor_name:", ":task_name:")
_CRASH = '"engine_crashed"'  # written by worker_process.py
_NO_MEMORY = "give it more memory, or lower engine.kv_cache_gib"
_NODE_DIED = "its node has died"
# causes in Ray's text beside "a connection error": the name of an exit, or part of its sentence
_RAYS_CAUSES = (
    (_NODE_DIED, "its node died", ""),
    ("NODE_OUT_OF_MEMORY", "Ray ended it, its node ran low on memory", _NO_MEMORY),
    ("running low on memory", "Ray ended it, its node ran low on memory", _NO_MEMORY),
    ("killed by `ray.kill`", "it was ended through Ray", ""),
    ("INTENDED_", "it was ended through Ray", ""),
)
_REMEDIES = {
    "SIGILL": "torch or numba was built for another CPU: install them for this one",
    "SIGBUS": "most often shared memory is full: enlarge /dev/shm",
    "SIGKILL": f"most often for want of memory: {_NO_MEMORY}",
}
# words of a last line that identify the reason
_REMEDIES_BY_WORDS = (
    ("LLVM ERROR", "a kernel cannot be compiled for this CPU: try another --dtype"),
    (
        "ModuleNotFoundError|ImportError",
        "install pdserve, and what it needs, where the worker runs",
    ),
    ("MemoryError|out of memory|std::bad_alloc", _NO_MEMORY),
    ("No space left on device", "free space on that disk, or enlarge /dev/shm"),
)


@dataclass(frozen=True, slots=True)
class Death:
    """A process's end: the signal or exit, the last words, and a remedy if one is known."""

    cause: str
    last_words: str = ""
    remedy: str = ""

    def told_of(self, who: str, doing: str = "") -> str:
        """Return one line that describes the death, without the remedy."""
        when = f" while {doing}" if doing else ""
        words = f": {self.last_words}" if self.last_words else ""
        return f"{who} died ({self.cause}){when}{words}"


def diagnose(lines: Sequence[str], ray_text: str = "", has_run_out: bool = False) -> Death:
    """Diagnose the death of a process whose output ends with these lines.

    `has_run_out` says that this machine's kernel killed a process for lack of memory meanwhile.
    """
    end, cause = _find_signal(lines)
    line = _last_line(lines[:end])
    words = _as_read(line)
    known = _known_to_ray(ray_text, words)
    if cause is None and known is not None:
        return known
    if cause is None:
        cause = "exit code 1" if _CRASH in line else "SIGKILL"
    if cause == "SIGKILL" and has_run_out:
        return Death("SIGKILL, the kernel was out of memory", words, _NO_MEMORY)
    return Death(cause, words, remedy_for(line) or _REMEDIES.get(cause, ""))


def diagnose_without_log(ray_text: str) -> Death:
    """Diagnose the death of a process that left no log."""
    return _known_to_ray(ray_text) or Death("nobody knows how, there is no log to read")


def is_of_node(ray_text: str) -> bool:
    """Return True if Ray says that the whole node is gone, so that nothing can be read there."""
    return _NODE_DIED in ray_text


def remedy_for(words: str) -> str:
    """Return the remedy for an error with these words; "" if none is known."""
    found = (remedy for pattern, remedy in _REMEDIES_BY_WORDS if re.search(pattern, words))
    return next(found, "")


def num_oom_kills() -> int:
    """Return how many processes this machine's kernel killed for lack of memory; 0 if unknown."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _known_to_ray(ray_text: str, words: str = "") -> Death | None:
    found = ((cause, remedy) for mark, cause, remedy in _RAYS_CAUSES if mark in ray_text)
    return next((Death(cause, words, remedy) for cause, remedy in found), None)


def _find_signal(lines: Sequence[str]) -> tuple[int, str | None]:
    """Return the index of the handlers' first line, and the signal's name if one is there."""
    for index, line in enumerate(lines):
        if found := _SIGNAL.match(line):
            name, fatal = found.groups()
            return index, name or _FATAL.get(fatal, f"a fatal error of Python, {fatal}")
    return len(lines), None


def _last_line(lines: Sequence[str]) -> str:
    """Return the last line with a known remedy, else the last with any text of the process."""
    stripped = (line.strip() for line in reversed(lines[-_NUM_LAST:]))
    said = [line for line in stripped if line and not line.startswith(_RAYS_OWN)]
    return next((line for line in said if remedy_for(line)), said[0] if said else "")


def _as_read(line: str) -> str:
    """Make a line readable: of a structured line its event and error; "" for level info."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        parts = [str(event[key]) for key in ("event", "error", "reason") if key in event]
        line = "" if event.get("level") == "info" else ": ".join(parts)
    return line if len(line) <= _MAX_WORDS else f"{line[:_MAX_WORDS]}…"
