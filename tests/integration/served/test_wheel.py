"""The wheel, installed: it serves from a folder whose packages have the names of a checkout's."""

import signal
from pathlib import Path

import pytest

from common.engine.weights.resolve import ModelSource
from tests.integration.support.processes import await_ready, ended, run_program, spawn_command, stop
from tests.wheels import SITE, build_wheel, foreign_packages, install, link_dependencies


@pytest.mark.deployment
def test_it_serves_from_any_folder_and_a_light_client_is_answered(
    tmp_path: Path, model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    wheel = build_wheel(tmp_path)
    server = install(wheel, tmp_path / "server", SITE)
    client = install(wheel, tmp_path / "client", link_dependencies(tmp_path / "others"))
    folder = foreign_packages(tmp_path / "elsewhere")
    serve = ("serve", model.name, "--openai-port", "0")
    process = spawn_command(*serve, program=server / "pdserve", cwd=folder)
    with ended(process):
        served = await_ready(process)
        asked = run_program(
            *(client / "pdserve", "generate", "What is the capital of France?"),
            *("--address", served.grpc),
            cwd=folder,
        )
        assert asked.returncode == 0, asked.stderr
        assert "Paris" in asked.stdout
        # a grammar is compiled by a module that the router starts by its name
        shaped = run_program(
            *(client / "pdserve", "generate", "Choose.", "--regex", "yes|no"),
            *("--address", served.grpc),
            cwd=folder,
        )
        assert shaped.stdout.strip() in ("yes", "no"), shaped.stderr
        stop(served, signal.SIGTERM)
