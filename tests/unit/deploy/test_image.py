"""Dockerfile: it builds the image that the manifests name."""

import tomllib

import yaml

from scripts.kustomize import (
    FOLDERS,
    OVERLAYS,
    REPOSITORY,
    containers,
    pod_templates,
    render,
)
from tests.unit.repository.sources import packages

DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text()


def _instructions(name: str) -> list[str]:
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def test_every_package_of_ours_is_copied() -> None:
    copied = {word for line in _instructions("COPY") for word in line.split()[:-1]}
    assert {package.name for package in packages()} <= copied


def test_packages_are_installed_at_the_tested_versions() -> None:
    installs = [line for line in _instructions("RUN") if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)


def test_every_target_runs_as_the_user_that_the_pods_ask_for() -> None:
    (user,) = _instructions("USER")
    stages = [line.split() for line in _instructions("FROM")]
    assert [words[-1] for words in stages] == ["build", "runtime", "cuda", "cpu"]
    assert [words[0] for words in stages[2:]] == ["runtime", "runtime"]  # which has USER
    for folder in FOLDERS:
        for doc in render(folder):
            for name, template in pod_templates(doc):
                pod = template["spec"]["securityContext"]
                assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}", (folder.name, name)


def test_manifests_name_one_image_of_this_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    image = f"{project['name']}:{project['version']}"
    cluster = yaml.safe_load((REPOSITORY / "deploy" / "ray" / "cluster.yaml").read_text())
    assert cluster["docker"]["image"] == f"{image}-cuda"
    for folder in FOLDERS:
        named = {
            container["image"]
            for doc in render(folder)
            for _, template in pod_templates(doc)
            for container in containers(template["spec"])
        }
        has_gpus = folder in (OVERLAYS / "gpu", OVERLAYS / "secure")
        assert named == {f"{image}-cuda" if has_gpus else image}, folder.name
    told = {line.partition(" -t ")[2] for line in DOCKERFILE.splitlines() if " -t " in line}
    assert told == {f"{image} .", f"{image}-cuda ."}
