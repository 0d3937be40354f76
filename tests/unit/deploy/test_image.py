"""Dockerfile: it builds the image that the manifests name."""

import tomllib

import yaml

from tests.unit.deploy.rendering import BASE, REPOSITORY, one, render
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


def test_it_runs_as_the_user_that_the_pods_ask_for() -> None:
    (user,) = _instructions("USER")
    pod = one(render(BASE), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"


def test_manifests_name_one_image_of_this_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    image = f"{project['name']}:{project['version']}"
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    cluster = yaml.safe_load((REPOSITORY / "deploy" / "ray" / "cluster.yaml").read_text())
    assert cluster["docker"]["image"] == image
    assert [f"{i['name']}:{i['newTag']}" for i in kustomization["images"]] == [image]
