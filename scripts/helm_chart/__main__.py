"""Writes the Helm chart's templates and schema: `make helm-chart` runs it, a test compares."""

import json
from collections import defaultdict

import yaml

from scripts.helm_chart.objects import SECURE, parametrize
from scripts.helm_chart.schema import schema
from scripts.helm_chart.template import document
from scripts.kustomize import OVERLAYS, REPOSITORY, Doc, render

CHART = REPOSITORY / "deploy" / "helm" / "pdserve"
_HEADER = "# Written by scripts/helm_chart from deploy/k8s, which has the reasons. Edit there.\n"
_SCALING = {
    ("HorizontalPodAutoscaler", "pdserve-router"): ".Values.autoscaling.routers",
    ("NetworkPolicy", "pdserve-autoscaler"): ".Values.autoscaling.workers",
}


def texts() -> dict[str, str]:
    """Return the files' contents by name, relative to the chart."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    return {**_templates(), "values.schema.json": json.dumps(schema(values), indent=2) + "\n"}


def _templates() -> dict[str, str]:
    without_secure = {_id(doc): doc for doc in render(OVERLAYS / "gpu")}
    written: dict[str, str] = defaultdict(lambda: _HEADER)
    for doc in render(OVERLAYS / "secure"):
        if doc["kind"] == "Namespace":
            continue  # Helm's --create-namespace
        del doc["metadata"]["namespace"]
        key = _id(doc)
        condition = _SCALING.get(key) if key in without_secure else SECURE
        parametrize(doc, without_secure.get(key, {}))
        written[f"templates/{doc['kind'].lower()}.yaml"] += document(doc, condition)
    return dict(written)


def _id(doc: Doc) -> tuple[str, str]:
    return doc["kind"], doc["metadata"]["name"]


def main() -> None:
    """Write the files."""
    for name, text in texts().items():
        (CHART / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
