"""deploy/ray: a cluster that `ray up` accepts, with the resources for `pdserve serve`."""

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.settings import load_config
from scripts.kustomize import REPOSITORY
from tests.unit.deploy.commands import option, pdserve_problems, ray_problems, shell_commands
from tests.unit.deploy.fitting import ROLES
from tests.unit.deploy.objects import schema_problems

FOLDER = REPOSITORY / "deploy" / "ray"


@pytest.fixture
def cluster() -> dict[str, Any]:
    """Return cluster.yaml."""
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Return the installed Ray's schema of a cluster's description."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "autoscaler" / "ray-schema.json"
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def _lines(cluster: dict[str, Any]) -> list[str]:
    commands = [line for key in cluster if key.endswith("_commands") for line in cluster[key]]
    return [*commands, *(FOLDER / "start-router.sh").read_text().splitlines()]


def test_ray_takes_the_description(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    assert schema_problems(cluster, schema) == []


def test_ray_would_refuse_a_misspelt_key(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    cluster["available_node_types"]["prefill"]["min_worker"] = 1
    (problem,) = schema_problems(cluster, schema)
    assert "min_worker" in problem


def test_each_role_has_as_many_gpu_nodes_as_workers(cluster: dict[str, Any]) -> None:
    config = load_config(FOLDER / "pdserve.yaml", {})
    assert (config.engine.device, config.cluster.roles) == ("cuda", "on")
    assert config.cluster.waits_s > config.start_timeout_s
    types = cluster["available_node_types"]
    assert set(types) == {cluster["head_node_type"], *ROLES}
    for role in ROLES:
        assert types[role]["resources"] == {role: 1, "GPU": 1}
        assert types[role]["min_workers"] == getattr(config, role) < types[role]["max_workers"]
    assert cluster["max_workers"] == sum(types[role]["max_workers"] for role in ROLES)
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}


def test_its_commands_exist(cluster: dict[str, Any]) -> None:
    lines = _lines(cluster)
    ours, rays = shell_commands(lines, "pdserve"), shell_commands(lines, "ray")
    assert [words[1] for words in ours] == ["model", "serve"]
    assert [words[1] for words in rays] == ["stop", "start", "stop", "start"]
    assert [problem for words in ours for problem in pdserve_problems(words)] == []
    assert [problem for words in rays for problem in ray_problems(words)] == []


def test_the_commands_that_its_head_tells_exist() -> None:
    text = (FOLDER / "cluster.yaml").read_text()
    told = [
        line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#    ")
    ]
    rays = shell_commands(told, "ray")
    assert [words[1] for words in rays] == ["up", "exec", "attach", "exec", "up"]
    assert [problem for words in rays for problem in ray_problems(words)] == []
    [scale] = [words[3] for words in rays if words[1] == "exec" and "pdserve" in words[3][:7]]
    assert pdserve_problems(shlex.split(scale)) == []


@pytest.mark.parametrize("line", ["ray start --head --prot=6379", "ray begin --head"])
def test_a_ray_command_with_a_typo_is_refused(line: str) -> None:
    (words,) = shell_commands([line], "ray")
    assert ray_problems(words)


def test_nodes_fetch_the_model_that_the_router_serves(cluster: dict[str, Any]) -> None:
    pull, serve = shell_commands(_lines(cluster), "pdserve")
    assert pull[3] == load_config(FOLDER / "pdserve.yaml", {}).model
    mounted = cluster["file_mounts"]["/home/pdserve/router"]
    assert (REPOSITORY / mounted / Path(option(serve, "--config")).name).is_file()
    assert "~/router/start-router.sh" in " ".join(cluster["head_start_ray_commands"])
