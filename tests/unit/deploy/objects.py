"""Checks of single objects against their schemas; unknown fields are problems."""

import json
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import kubernetes_validate

from scripts.kustomize import Doc, pod_templates

KUBERNETES = "1.30"  # the version that deploy/k8s/README.md requires
# objects of operators: the fields that ours use
_SCHEMAS = {
    kind: json.loads((Path(__file__).parent / f"{kind.lower()}.schema.json").read_text())
    for kind in ("RayCluster", "PodMonitor", "ScaledJob")
}


def object_problems(docs: list[Doc]) -> list[str]:
    """Return the problems of each object by itself."""
    problems = []
    for doc in docs:
        if doc["kind"] not in _SCHEMAS:
            problems += _core_problems(doc)
            continue
        found = schema_problems(doc, _SCHEMAS[doc["kind"]])
        problems += found
        if not found:
            problems += [p for inner in _core_objects(doc) for p in _core_problems(inner)]
    return problems


def _core_objects(doc: Doc) -> list[Doc]:
    """Return Kubernetes' own objects that an operator makes of one of its kind."""
    if doc["kind"] == "ScaledJob":
        metadata, spec = {"name": doc["metadata"]["name"]}, doc["spec"]["jobTargetRef"]
        return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **template.get("metadata", {})},
            "spec": template["spec"],
        }
        for name, template in pod_templates(doc)
    ]


def schema_problems(value: object, schema: Mapping[str, object]) -> list[str]:
    """Return the places where `value` breaks a JSON schema."""
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(value)]


def _core_problems(doc: Doc) -> list[str]:
    try:
        kubernetes_validate.validate(doc, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        return [f"{doc['kind']} {doc['metadata']['name']}: {where}: {error.message}"]
    return []
