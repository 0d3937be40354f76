"""Checks of what scales: routers by their CPU, workers by jobs that ask a router."""

import re
from pathlib import Path

from scripts.kustomize import REPOSITORY, Doc, all_of, one
from tests.unit.deploy.commands import option

_PAGE = Path(REPOSITORY, "docs", "operate", "metrics.md").read_text("utf-8")
METRICS = set(re.findall(r"^\| `(pdserve_\w+)` \|", _PAGE, re.MULTILINE))
_PARTS = ("_bucket", "_sum", "_count")


def scaling_problems(docs: list[Doc]) -> list[str]:
    """Check that what is scaled exists, by metrics that exist, within its limits."""
    router, problems = one(docs, "Deployment"), []
    for scaler in all_of(docs, "HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] != router["metadata"]["name"]:
            problems.append(f"{scaler['metadata']['name']} scales no Deployment")
        if "replicas" in router["spec"]:
            problems.append("each `kubectl apply` would undo the autoscaler's choice of replicas")
    cluster = one(docs, "RayCluster")["spec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for job in all_of(docs, "ScaledJob"):
        problems += _job_problems(docs, job, groups)
    grows = any(group["minReplicas"] < group["maxReplicas"] for group in groups.values())
    if grows and not cluster.get("enableInTreeAutoscaling"):
        problems.append("the groups have room to grow, and no autoscaler")
    return problems


def _job_problems(docs: list[Doc], job: Doc, groups: dict[str, Doc]) -> list[str]:
    name, problems = job["metadata"]["name"], []
    words = job["spec"]["jobTargetRef"]["template"]["spec"]["containers"][0]["args"]
    role = next(word for word in words if word.endswith("-by")).removeprefix("--").partition("-")[0]
    limit, bound = ("--max", "maxReplicas") if "--max" in words else ("--min", "minReplicas")
    if int(option(words, limit)) != groups[role][bound]:
        problems.append(f"{name}: {limit} is not the {bound} of group {role}")
    service = one(docs, "Service")
    port = next(p["port"] for p in service["spec"]["ports"] if p["name"] == "grpc")
    if option(words, "--address") != f"{service['metadata']['name']}:{port}":
        problems.append(f"{name} asks {option(words, '--address')}")
    for trigger in job["spec"]["triggers"]:
        named = set(re.findall(r"pdserve_\w+", trigger["metadata"]["query"]))
        known = {m for metric in METRICS for m in (metric, *(metric + part for part in _PARTS))}
        problems += [f"{name}: no metric {metric}" for metric in sorted(named - known)]
    return problems
