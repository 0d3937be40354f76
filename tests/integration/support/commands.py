"""Commands of `pdserve` in this process, for tests whose subject is not that process."""

import contextlib
import io
import subprocess
import sys

import pytest

from cli.main import main


def run_here(*args: str) -> subprocess.CompletedProcess[str]:
    """Run `pdserve ARGS` to its end, as `run_cli` does."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["pdserve", *args])
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code if isinstance(ended.value.code, int) else 0
    return subprocess.CompletedProcess(args, code, out.getvalue(), errors.getvalue())
