import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray._private import node as ray_node
from ray._private import services as ray_services

import deploy.ray_worker_setup
from deploy import private_ray
from deploy.private_ray import quick_start

SETUP = deploy.ray_worker_setup.__file__


def written(path: Path, name: str) -> Path:
    """A program that prints its own name and its arguments."""
    path.write_text(f"import json, sys; print(json.dumps([{name!r}, *sys.argv[1:]]))")
    return path


@pytest.mark.parametrize("context", [[], ["--serialized-runtime-env-context={}"]])
def test_a_worker_without_an_environment_begins_at_once(tmp_path: Path, context: list[str]) -> None:
    worker = written(tmp_path / "default_worker.py", "worker")
    ran = subprocess.run(
        [sys.executable, SETUP, str(worker), "--gcs=a b", *context, "--language=PYTHON"],
        capture_output=True,
        check=True,
    )
    assert json.loads(ran.stdout) == ["worker", "--gcs=a b"]


def test_a_worker_with_an_environment_begins_as_ray_wants(tmp_path: Path) -> None:
    worker = written(tmp_path / "default_worker.py", "worker")
    written(tmp_path / "setup_worker.py", "setup")
    context = '--serialized-runtime-env-context={"env_vars": {"A": "1"}}'
    command = [sys.executable, SETUP, str(worker), context, "--language=PYTHON"]
    ran = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(ran.stdout) == ["setup", str(worker), context, "--language=PYTHON"]


def fail_to_start() -> None:
    with quick_start(3):
        assert ray_node.Node is private_ray._QuickNode
        raise OSError("no Ray")


def test_ray_is_as_it_was_after_a_start_that_failed() -> None:
    node, build = ray_node.Node, getattr(ray_services, private_ray._AGENT_COMMAND)
    with pytest.raises(OSError, match="no Ray"):
        fail_to_start()
    assert ray_node.Node is node
    assert getattr(ray_services, private_ray._AGENT_COMMAND) is build


def test_a_ray_of_another_version_starts_as_it_always_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    node, start_process = ray_node.Node, ray_services.start_ray_process
    with quick_start(3):
        assert ray_node.Node is node
        assert ray_services.start_ray_process is start_process


def test_the_raylet_begins_as_many_processes_as_will_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(
        ray_services, "start_ray_process", lambda command, kind, **_: started.append(command)
    )
    fake = ray_services.start_ray_process
    prestart, at_once = "--num_prestart_python_workers", "--maximum_startup_concurrency"
    with quick_start(3):
        ray_services.start_ray_process(
            ["raylet", f"{prestart}=64", f"{at_once}=2", "--labels=a=b", "--head"], "raylet"
        )
    assert started == [["raylet", f"{prestart}=3", f"{at_once}=3", "--labels=a=b", "--head"]]
    assert ray_services.start_ray_process is fake
