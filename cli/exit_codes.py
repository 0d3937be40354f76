"""Exit codes of `pdserve`, the same for all commands."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of a command; `meaning` documents it."""

    def __new__(cls, code: int, meaning: str) -> "ExitCode":
        """Return the member of this code."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    meaning: str

    OK = 0, "done; a server was ended by a signal, as it should be"
    FAILED = 1, "a request failed, a worker died, or a check found a problem"
    USAGE = 2, "the command could not start (a wrong setting, no such model)"
    INTERRUPTED = 130, "Ctrl-C"


def describe_exit_codes() -> str:
    """Return one paragraph per exit code, for the end of `pdserve --help`."""
    lines = (f"{code.value}: {code.meaning}" for code in ExitCode)
    return "\n\n".join(("Exit codes:", *lines))
