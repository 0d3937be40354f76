"""Network between router and worker that fails and heals, in two network namespaces."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.support.processes import START_TIMEOUT_S
from tests.unit.repository.sources import ROOT


def can_part() -> bool:
    """Try it; return False where the system has no namespaces for us."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    link = "ip link add a0 type veth peer name b0 && ip link set a0 up"
    tried = subprocess.run(["unshare", "-n", "sh", "-c", link], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.faults
@pytest.mark.parametrize("length", ["briefly", "long"])
@pytest.mark.parametrize("way", ["down", "drop"], ids=["link down", "one way only"])
def test_a_partition_changes_no_answer(tiny_model: Path, way: str, length: str) -> None:
    if not can_part():
        pytest.skip("no network namespace and veth pair may be made here")
    command = ("unshare", "-n", sys.executable, "-m", "tests.faults.partition")
    done = subprocess.run(
        [*command, str(tiny_model), way, length],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("as undisturbed\n")
    if length == "long":
        assert '"request_moved"' in done.stderr
