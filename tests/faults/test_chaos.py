"""The command `pdserve chaos`, for half a minute on a tiny model."""

import json
from pathlib import Path

import pytest

from benchmarks.chaos.table import render
from tests.faults.deployments import FAILPOINTS
from tests.integration.support.processes import run_cli
from tests.patience import DEPLOYMENT_S


@pytest.mark.faults
def test_a_short_run_is_clean_and_its_report_makes_a_table(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = tmp_path_factory.mktemp(
        "chaos"
    )  # Ray's sockets lie there, and their paths must be short
    monkeypatch.setenv("PDSERVE_FAILPOINTS", FAILPOINTS)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    file = tmp_path / "faults.json"
    flags = ("--seed", "5", "--minutes", "0.5", "--json", str(file))
    done = run_cli("chaos", str(tiny_model), *flags, timeout_s=DEPLOYMENT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    assert result["environment"]["command"].startswith("pdserve chaos ")
    figures = result["figures"]
    assert figures["requests"] == figures["identical"] > 0
    assert sum(row["runs"] for row in figures["rows"]) > 0
    assert figures["processes_left"] == 0
    assert f"{figures['requests']} answers identical" in " ".join(render(result).split())
