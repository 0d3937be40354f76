"""deploy/helm/pdserve: made from deploy/k8s, with the same objects for the same settings."""

import json
from pathlib import Path

import pytest
import yaml

from scripts.helm_chart.__main__ import CHART, texts
from scripts.kustomize import OVERLAYS, REPOSITORY, Doc, one, render
from tests.unit.deploy import fitting
from tests.unit.deploy.chart import (
    named_paths,
    paths,
    render_chart,
    render_with_helm,
    values_file,
    values_of,
)
from tests.unit.deploy.commands import container_commands, pdserve_problems
from tests.unit.deploy.objects import object_problems, schema_problems

# values that a cluster of one's own may have
OWN: Doc = {
    "image": "registry.example/pdserve@sha256:" + "0" * 64,
    "imagePullSecrets": [{"name": "registry"}],
    "model": "/models/llama",
    "models": {"fetch": False, "claim": "models"},
    "prefill": {"gpus": 2, "nodeSelector": {"zone": "a"}},
    "decode": {"replicas": 3, "maxReplicas": 12, "nodeSelector": None, "tolerations": []},
    "settings": {"router": {"max_wait_s": 2.5}},
    "accessSecret": "callers",
}
BY_OVERLAY: dict[str, Doc] = {
    "gpu": {},
    "secure": values_file("values-secure.yaml"),
    "cpu-dev": values_file("values-cpu-dev.yaml"),
}
GIVEN = {**BY_OVERLAY, "own": OWN}


def _comparable(docs: list[Doc]) -> dict[tuple[str, str], Doc]:
    """Return objects by kind and name, without the namespace, which Helm gives at install."""
    found = {}
    for doc in docs:
        if doc["kind"] == "Namespace":
            continue
        doc["metadata"].pop("namespace", None)
        if doc["kind"] == "ConfigMap":
            doc["data"] = {name: yaml.safe_load(text) for name, text in doc["data"].items()}
        if doc["kind"] == "Deployment":
            # kustomize puts the same into the ConfigMap's name
            doc["spec"]["template"]["metadata"].pop("annotations", None)
        found[doc["kind"], doc["metadata"]["name"]] = doc
    return found


def test_the_committed_files_are_what_the_script_writes() -> None:
    written = {f"templates/{path.name}" for path in (CHART / "templates").iterdir()}
    made = texts()
    assert written | {"values.schema.json"} == made.keys(), "run `make helm-chart`"
    assert {name: (CHART / name).read_text("utf-8") for name in made} == made, (
        "run `make helm-chart`"
    )


@pytest.mark.parametrize("overlay", BY_OVERLAY)
def test_the_chart_makes_the_objects_of_each_overlay(overlay: str) -> None:
    made = _comparable(render_chart(values_of(BY_OVERLAY[overlay])))
    assert made == _comparable(render(OVERLAYS / overlay))


@pytest.mark.parametrize("given", GIVEN)
def test_our_renderer_and_helm_agree(given: str) -> None:
    by_helm = render_with_helm(GIVEN[given])
    if by_helm is None:
        pytest.skip("no helm-python-sdk here")
    assert _comparable(by_helm) == _comparable(render_chart(values_of(GIVEN[given])))


def test_templates_and_values_name_the_same_things() -> None:
    named, known = named_paths(), paths(values_file("values.yaml"))
    assert named <= known
    # a value is used by itself, or in a mapping that is written as a whole
    used = {path for path in known if any(path == n or path.startswith(f"{n}.") for n in named)}
    assert used | {path for path in known if any(n.startswith(f"{path}.") for n in named)} == known


def test_values_of_ones_own_reach_their_places(tmp_path: Path) -> None:
    docs = render_chart(values_of(OWN))
    assert object_problems(docs) == []
    assert [p for words in container_commands(docs) for p in pdserve_problems(words)] == []
    config = fitting.configuration(docs, tmp_path)
    assert (config.model, config.prefill, config.decode) == ("/models/llama", 1, 3)
    assert config.router.max_wait_s == 2.5
    assert one(docs, "ServiceAccount")["imagePullSecrets"] == [{"name": "registry"}]
    prefill, decode = one(docs, "RayCluster")["spec"]["workerGroupSpecs"]
    assert (decode["replicas"], decode["maxReplicas"]) == (3, 12)
    pods = [group["template"]["spec"] for group in (prefill, decode)]
    assert pods[0]["nodeSelector"] == {"nvidia.com/gpu.present": "true", "zone": "a"}
    assert pods[1].keys().isdisjoint({"nodeSelector", "tolerations"})
    limits = [pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods]
    assert limits == ["2", "1"]
    for spec in (*pods, one(docs, "Deployment")["spec"]["template"]["spec"]):
        assert "initContainers" not in spec
        assert spec["containers"][0]["image"] == OWN["image"]
        models = next(volume for volume in spec["volumes"] if volume["name"] == "models")
        assert models == {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    assert {"name": "access", "secret": {"secretName": "callers"}} in spec["volumes"]


def test_routers_are_replaced_when_their_file_changes_and_only_then() -> None:
    def template(**values: object) -> Doc:
        found: Doc = one(render_chart(values_of(values)), "Deployment")["spec"]["template"]
        return found

    assert template() == template(decode={"maxReplicas": 9}, secure={"tlsSecret": "other"})
    assert template() != template(settings={"engine": {"kv_cache_gib": 9}})


def test_values_with_a_typo_are_refused() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    for given in GIVEN.values():
        assert schema_problems(values_of(given), schema) == []
    wrong: dict[str, Doc] = {
        "replica": {"decode": {"replica": 3}},
        "'two' is not": {"router": {"replicas": "two"}},
        "modell": {"modell": "a"},
        "security": {"settings": {"security": {}}},
        "ephemeral-storage": {"prefill": {"resources": {"limits": {"ephemeral-storage": "1Gi"}}}},
    }
    for mention, given in wrong.items():
        (problem,) = schema_problems(values_of(given), schema)
        assert mention in problem


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert f'version = "{chart["version"]}"' in (REPOSITORY / "pyproject.toml").read_text("utf-8")
    assert chart["appVersion"] == chart["version"]
    assert values_of({})["image"].split(":")[1].startswith(chart["version"])
