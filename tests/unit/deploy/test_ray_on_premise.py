"""deploy/ray on machines that are there: `ray up` for them, and a router as a job of Ray."""

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config
from ray.dashboard.modules.job.cli import submit
from ray.runtime_env import RuntimeEnv

from cli.settings import load_config
from scripts.kustomize import REPOSITORY
from tests.patience import WITHIN_S
from tests.unit.deploy.commands import pdserve_problems, ray_problems, shell_commands
from tests.unit.deploy.objects import schema_problems

FOLDER = REPOSITORY / "deploy" / "ray"
FILE = FOLDER / "on-premise.yaml"
JOB = FOLDER / "job-runtime.yaml"
GUIDE = REPOSITORY / "docs" / "operate" / "cluster.md"


@pytest.fixture
def cluster() -> dict[str, Any]:
    """Return on-premise.yaml."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def _schema() -> dict[str, Any]:
    spec = importlib.util.find_spec("ray.autoscaler")
    assert spec is not None
    assert spec.origin is not None
    loaded: dict[str, Any] = json.loads((Path(spec.origin).parent / "ray-schema.json").read_text())
    return loaded


def test_ray_takes_the_description_as_it_is_and_as_it_completes_it(cluster: dict[str, Any]) -> None:
    assert schema_problems(cluster, _schema()) == []
    completed = prepare_config(cluster)  # ends the process for keys that such clusters cannot have
    assert schema_problems(completed, _schema()) == []
    (node_type,) = completed["available_node_types"].values()
    config = load_config(FOLDER / "pdserve.yaml", {})
    assert node_type["min_workers"] == node_type["max_workers"] == config.prefill + config.decode


def test_ray_would_refuse_a_misspelt_key(cluster: dict[str, Any]) -> None:
    cluster["worker_setup_command"] = []
    (problem,) = schema_problems(cluster, _schema())
    assert "worker_setup_command" in problem


def test_its_commands_exist(cluster: dict[str, Any]) -> None:
    lines = [line for key in cluster if key.endswith("_commands") for line in cluster[key]]
    ours, rays = shell_commands(lines, "pdserve"), shell_commands(lines, "ray")
    assert [words[1] for words in ours] == ["model"]
    assert [words[1] for words in rays] == ["stop", "start", "stop", "start"]
    assert [problem for words in ours for problem in pdserve_problems(words)] == []
    assert [problem for words in rays for problem in ray_problems(words)] == []
    assert ours[0][3] == load_config(FOLDER / "pdserve.yaml", {}).model
    assert "--num-cpus=0" in rays[1]
    starts = [line for line in lines if "ray start" in line or "start-router.sh" in line]
    assert all(line.startswith("export RAY_AUTH_MODE=token") for line in starts), starts


def test_the_commands_that_its_head_tells_exist() -> None:
    told = [line[1:].strip() for line in FILE.read_text().splitlines() if line.startswith("#    ")]
    rays = shell_commands(told, "ray")
    assert [words[1] for words in rays] == ["up", "exec", "attach", "up", "exec"]
    assert [problem for words in rays for problem in ray_problems(words)] == []
    assert all(FILE.name in " ".join(words) for words in rays)
    assert pdserve_problems(shlex.split(rays[-1][3])) == []


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_node_offers_the_role_that_is_written_on_it(
    cluster: dict[str, Any], tmp_path: Path, role: str
) -> None:
    """The shell expands the resources, as it does on the node."""
    (tmp_path / "pdserve-role").write_text(f"{role}\n")
    (check,), (_, start) = cluster["worker_setup_commands"], cluster["worker_start_ray_commands"]
    assert _shell(check, tmp_path) == (0, "")
    found = re.search(r"--resources=(.*)", start)
    assert found is not None
    assert json.loads(_shell(f"echo {found[1]}", tmp_path)[1]) == {role: 1}


@pytest.mark.parametrize("text", [None, "", "router\n", "prefill decode\n"])
def test_a_node_without_a_role_is_refused(
    cluster: dict[str, Any], tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "pdserve-role").write_text(text)
    (check,) = cluster["worker_setup_commands"]
    assert _shell(check, tmp_path)[0] != 0


def test_a_job_of_ray_is_submitted_with_options_and_settings_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guide's own command, and each variable of the runtime environment."""
    told = GUIDE.read_text().replace("\\\n", " ").replace("\n$ ", "\n").splitlines()
    [words] = shell_commands(told, "ray job submit")
    split = words.index("--")
    known = {option for parameter in submit.params for option in parameter.opts}
    options = words[3:split]
    assert {word for word in options if word.startswith("--")} <= known
    assert REPOSITORY / options[options.index("--runtime-env") + 1] == JOB
    assert pdserve_problems(words[split + 1 :]) == []
    variables = RuntimeEnv(**yaml.safe_load(JOB.read_text()))["env_vars"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_config(None, {})
    assert (config.cluster.roles, config.cluster.waits_s) == ("on", 1200)
    stops_within_s = int(variables["RAY_JOB_STOP_WAIT_TIME_S"])
    assert stops_within_s > config.drain_timeout_s


def _shell(command: str, home: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", command],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    return done.returncode, done.stdout
