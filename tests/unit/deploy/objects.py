"""Checks of single objects against their schemas; unknown fields are problems."""

import json
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import kubernetes_validate

from tests.unit.deploy.rendering import Doc, pod_templates

KUBERNETES = "1.30"  # the version that deploy/k8s/README.md requires
_RAY_CLUSTER = json.loads((Path(__file__).parent / "raycluster.schema.json").read_text())


def object_problems(docs: list[Doc]) -> list[str]:
    """Return the problems of each object by itself."""
    problems = []
    for doc in docs:
        if doc["kind"] != "RayCluster":
            problems += _core_problems(doc)
            continue
        found = schema_problems(doc, _RAY_CLUSTER)
        problems += found
        if found:
            continue
        for name, template in pod_templates(doc):
            metadata = {"name": name, **template.get("metadata", {})}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": template["spec"],
            }
            problems += _core_problems(pod)
    return problems


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
