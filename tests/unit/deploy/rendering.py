"""Objects that `kubectl apply -k` would send, as Python objects, with and without kubectl."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.patience import WITHIN_S

Doc = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[3]
BASE = REPOSITORY / "deploy" / "k8s" / "base"
_KNOWN = {"apiVersion", "kind", "resources", "configMapGenerator", "images", "labels"}


def render(base: Path) -> list[Doc]:
    """Return the base's objects, with the kustomize features that it uses; names get no hash."""
    plan = yaml.safe_load((base / "kustomization.yaml").read_text())
    if unknown := plan.keys() - _KNOWN:
        raise ValueError(f"this renderer does not know {sorted(unknown)}")
    docs = [_config_map(base, generator) for generator in plan["configMapGenerator"]]
    for name in plan["resources"]:
        parsed = yaml.safe_load_all((base / name).read_text())
        # copied through JSON: objects shared by anchors would show one edit in several places
        docs += json.loads(json.dumps(list(parsed)))
    for doc in docs:
        for label in plan["labels"]:
            _add_labels(doc, label)
        for _, template in pod_templates(doc):
            _set_images(template["spec"], {i["name"]: i["newTag"] for i in plan["images"]})
    return docs


def render_with_kubectl(base: Path) -> list[Doc] | None:
    """Render with kubectl, without the hash in the ConfigMap's name; None if it is missing."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return None
    done = subprocess.run(
        [kubectl, "kustomize", str(base)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    hashed = one(list(yaml.safe_load_all(done.stdout)), "ConfigMap")["metadata"]["name"]
    return list(yaml.safe_load_all(done.stdout.replace(hashed, hashed.rpartition("-")[0])))


def one(docs: list[Doc], kind: str) -> Doc:
    """Return the only object of a kind."""
    (found,) = (doc for doc in docs if doc["kind"] == kind)
    return found


def pod_templates(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Yield an object's pod templates, each with a name for messages."""
    if doc["kind"] == "Deployment":
        yield doc["metadata"]["name"], doc["spec"]["template"]
    if doc["kind"] == "RayCluster":
        yield "head", doc["spec"]["headGroupSpec"]["template"]
        for group in doc["spec"]["workerGroupSpecs"]:
            yield group["groupName"], group["template"]


def containers(spec: Doc) -> list[Doc]:
    """Return a pod's containers, init containers first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def _config_map(base: Path, generator: Doc) -> Doc:
    data = {name: (base / name).read_text() for name in generator["files"]}
    metadata = {"name": generator["name"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _add_labels(doc: Doc, label: Doc) -> None:
    doc["metadata"].setdefault("labels", {}).update(label["pairs"])
    # kustomize knows the pods of built-in kinds, not those of a RayCluster
    if label["includeTemplates"] and doc["kind"] == "Deployment":
        doc["spec"]["template"]["metadata"]["labels"].update(label["pairs"])


def _set_images(spec: Doc, tags: dict[str, str]) -> None:
    for container in containers(spec):
        if container["image"] in tags:
            container["image"] += f":{tags[container['image']]}"
