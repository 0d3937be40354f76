"""deploy/k8s, base and overlays: accepted by Kubernetes and KubeRay, and in line with the code."""

import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from router.edge.http import HttpServer
from scripts.kustomize import (
    FOLDERS,
    REPOSITORY,
    Doc,
    one,
    render,
)
from tests.patience import WITHIN_S
from tests.unit.deploy import fitting
from tests.unit.deploy.autoscaling import scaling_problems
from tests.unit.deploy.commands import container_commands, pdserve_problems
from tests.unit.deploy.network import policy_problems, reach_problems
from tests.unit.deploy.objects import object_problems


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    """Return the base, or an overlay."""
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def docs(folder: Path) -> list[Doc]:
    """Return the folder's objects."""
    return render(folder)


def test_our_renderer_and_kubectl_agree(folder: Path, docs: list[Doc]) -> None:
    by_kubectl = _render_with_kubectl(folder)
    if by_kubectl is None:
        pytest.skip("no kubectl here")

    def name(doc: Doc) -> tuple[str, str]:
        return doc["kind"], doc["metadata"]["name"]

    assert sorted(by_kubectl, key=name) == sorted(docs, key=name)


def test_every_object_fits_its_schema(docs: list[Doc]) -> None:
    assert object_problems(docs) == []


def test_the_router_and_the_model_fetchers_use_commands_that_exist(docs: list[Doc]) -> None:
    commands = container_commands(docs)
    assert [words[1] for words in commands].count("serve") == 1
    assert [words[1] for words in commands].count("model") == 3
    assert [problem for words in commands for problem in pdserve_problems(words)] == []


def test_objects_fit_each_other_and_the_configuration(docs: list[Doc], tmp_path: Path) -> None:
    config = fitting.configuration(docs, tmp_path)
    assert fitting.port_problems(docs, config) == []
    assert fitting.role_problems(docs, config) == []
    assert fitting.reference_problems(docs, config) == []
    assert fitting.time_problems(docs, config) == []
    assert fitting.access_problems(docs, config) == []
    assert scaling_problems(docs) == []


def test_pods_are_complete_and_locked_down(docs: list[Doc]) -> None:
    assert fitting.pod_problems(docs) == []
    assert fitting.budget_problems(docs) == []
    assert policy_problems(docs) == []
    assert reach_problems(docs) == []


def test_probes_ask_for_pages_that_the_router_has(docs: list[Doc]) -> None:
    router = one(docs, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    paths = [router[p]["httpGet"]["path"] for p in probes if "httpGet" in router[p]]
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), lambda: False)
    server.start()
    try:
        answers = [_status(f"http://127.0.0.1:{server.port}{path}") for path in paths]
    finally:
        server.stop()
    # a router without workers is alive, and takes no requests
    assert answers == [200, 200, 503][: len(answers)]


def test_the_rays_are_of_one_version(docs: list[Doc]) -> None:
    version = one(docs, "RayCluster")["spec"]["rayVersion"]
    assert f"ray=={version}" in (REPOSITORY / "constraints.txt").read_text().splitlines()


def _render_with_kubectl(folder: Path) -> list[Doc] | None:
    """Render with kubectl, without the hash in the ConfigMap's name; None if it is missing."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return None
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    hashed = one(list(yaml.safe_load_all(done.stdout)), "ConfigMap")["metadata"]["name"]
    return list(yaml.safe_load_all(done.stdout.replace(hashed, hashed.rpartition("-")[0])))


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=WITHIN_S) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
