"""Objects that `kubectl apply -k` would send, as Python objects, without kubectl."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Doc = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[1]
BASE = REPOSITORY / "deploy" / "k8s" / "base"
OVERLAYS = BASE.parent / "overlays"
FOLDERS = (BASE, *(OVERLAYS / name for name in ("cpu-dev", "gpu", "secure")))
_KNOWN = {
    *("apiVersion", "kind", "resources", "configMapGenerator"),
    *("images", "labels", "patches", "namespace"),
}


def render(folder: Path) -> list[Doc]:
    """Return a folder's objects, with the kustomize features that ours use; names get no hash."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := plan.keys() - _KNOWN:
        raise ValueError(f"this renderer does not know {sorted(unknown)}")
    docs: list[Doc] = []
    for name in plan["resources"]:
        path = folder / name
        docs += render(path) if path.is_dir() else _read(path)
    for generator in plan.get("configMapGenerator", ()):
        _generate(docs, folder, generator)
    for doc in docs:
        for patch in plan.get("patches", ()):
            if (doc["kind"], doc["metadata"]["name"]) == tuple(patch["target"].values()):
                apply_patch(doc, yaml.safe_load((folder / patch["path"]).read_text()))
        for label in plan.get("labels", ()):
            _add_labels(doc, label)
        if "namespace" in plan and doc["kind"] != "Namespace":
            doc["metadata"]["namespace"] = plan["namespace"]
        for _, template in pod_templates(doc):
            _set_images(template["spec"], {i["name"]: i["newTag"] for i in plan.get("images", ())})
    return docs


def one(docs: list[Doc], kind: str) -> Doc:
    """Return the only object of a kind."""
    (found,) = all_of(docs, kind)
    return found


def all_of(docs: list[Doc], kind: str) -> list[Doc]:
    """Return the objects of a kind."""
    return [doc for doc in docs if doc["kind"] == kind]


def pod_templates(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Yield an object's pod templates, each with a name for messages."""
    if doc["kind"] == "Deployment":
        yield doc["metadata"]["name"], doc["spec"]["template"]
    if doc["kind"] == "ScaledJob":
        yield doc["metadata"]["name"], doc["spec"]["jobTargetRef"]["template"]
    if doc["kind"] == "RayCluster":
        yield "head", doc["spec"]["headGroupSpec"]["template"]
        for group in doc["spec"]["workerGroupSpecs"]:
            yield group["groupName"], group["template"]


def containers(spec: Doc) -> list[Doc]:
    """Return a pod's containers, init containers first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def apply_patch(doc: Doc, operations: list[Doc]) -> None:
    """Change an object as a JSON patch (RFC 6902) of add, replace and remove says."""
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~")
            for part in operation["path"].removeprefix("/").split("/")
        ]
        inner: Any = doc
        for part in parents:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        if operation["op"] == "add" and last == "-":
            inner.append(operation["value"])
        elif operation["op"] == "add":
            inner[last] = operation["value"]
        elif operation["op"] == "replace":
            key: Any = int(last) if isinstance(inner, list) else last
            inner[key]  # must be there
            inner[key] = operation["value"]
        elif operation["op"] == "remove":
            del inner[last]
        else:
            raise ValueError(f"this renderer does not know {operation['op']}")


def _read(path: Path) -> list[Doc]:
    # copied through JSON: objects shared by anchors would show one edit in several places
    docs: list[Doc] = json.loads(json.dumps(list(yaml.safe_load_all(path.read_text()))))
    return [one for doc in docs for one in (doc["items"] if doc["kind"] == "List" else [doc])]


def _generate(docs: list[Doc], folder: Path, generator: Doc) -> None:
    """Add a ConfigMap of files, or replace the data of the base's."""
    data = {name: (folder / name).read_text() for name in generator["files"]}
    if generator.get("behavior") == "replace":
        one(docs, "ConfigMap")["data"] = data
        return
    metadata = {"name": generator["name"]}
    docs.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _add_labels(doc: Doc, label: Doc) -> None:
    doc["metadata"].setdefault("labels", {}).update(label["pairs"])
    # kustomize knows the pods of built-in kinds, not those of a RayCluster
    if label["includeTemplates"] and doc["kind"] == "Deployment":
        doc["spec"]["template"]["metadata"]["labels"].update(label["pairs"])


def _set_images(spec: Doc, tags: dict[str, str]) -> None:
    for container in containers(spec):
        name = re.sub(r":[^/:]+$", "", container["image"])
        if name in tags:
            container["image"] = f"{name}:{tags[name]}"
