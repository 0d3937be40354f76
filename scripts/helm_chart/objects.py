"""Objects of deploy/k8s with the chart's values in the places that people change."""

from typing import Any

import yaml

from scripts.helm_chart.template import block, value, when
from scripts.kustomize import Doc, containers, pod_templates

SECURE = ".Values.secure.enabled"
_FETCH, _CLAIM = ".Values.models.fetch", ".Values.models.claim"
_RAY_SCALES = ".Values.autoscaling.workers"
_CONFIG_SUM = '{{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}'


def parametrize(doc: Doc, without_tls: Doc) -> None:
    """Put values into an object of the secure overlay; `without_tls` is the GPU overlay's."""
    for _, template in pod_templates(doc):
        _pod(template["spec"])
    edit = {
        "ConfigMap": _config,
        "Deployment": _router,
        "RayCluster": _cluster,
        "HorizontalPodAutoscaler": _router_scaling,
        "ScaledJob": _worker_scaling,
        "ServiceAccount": _account,
    }.get(doc["kind"])
    if edit is not None:
        edit(doc)
    if doc["kind"] == "Deployment":
        _tls(doc["spec"]["template"]["spec"], without_tls["spec"]["template"]["spec"])


def _pod(spec: Doc) -> None:
    for container in containers(spec):
        container["image"] = value("image")
        container["imagePullPolicy"] = value("imagePullPolicy")
    for container in spec.get("initContainers", ()):
        container["command"][-1] = value("model")
        container["resources"] = value("models.fetchResources")
    if "initContainers" in spec:
        rename(spec, "initContainers", when(_FETCH, "initContainers"))
    for volume in spec["volumes"]:
        if volume["name"] == "models":
            del volume["emptyDir"]
            volume[when(_CLAIM, "persistentVolumeClaim")] = {"claimName": value("models.claim")}
            volume[when(f"not {_CLAIM}", "emptyDir")] = {}


def _config(doc: Doc) -> None:
    config = yaml.safe_load(doc["data"]["pdserve.yaml"])
    config |= {"model": value("model"), "engine": value("settings.engine")}
    config |= {role: value(f"{role}.replicas") for role in ("prefill", "decode")}
    config["start_timeout_s"] = value("router.startTimeoutSeconds")
    config["drain_timeout_s"] = value("router.drainTimeoutSeconds")
    config["cluster"]["wait_for_nodes_s"] = value("router.waitForNodesSeconds")
    for key in ("tls_cert_file", "tls_key_file"):
        rename(config["security"], key, when(SECURE, key))
    config[when(".Values.settings.router", "router")] = value("settings.router")
    doc["data"]["pdserve.yaml"] = block(config)


def _router(doc: Doc) -> None:
    replicas = when("not .Values.autoscaling.routers", "replicas")
    doc["spec"] = {replicas: value("router.replicas"), **doc["spec"]}
    # a pod keeps the file that it began with, so another one has to follow
    doc["spec"]["template"]["metadata"]["annotations"] = {"checksum/config": _CONFIG_SUM}
    spec = doc["spec"]["template"]["spec"]
    spec["terminationGracePeriodSeconds"] = value("router.terminationGraceSeconds")
    (router,) = spec["containers"]
    router["startupProbe"]["failureThreshold"] = value("router.startupProbeFailures")
    router["lifecycle"]["preStop"]["sleep"]["seconds"] = value("router.preStopSeconds")
    router["resources"] = value("router.resources")
    _volume(spec, "access")["secret"]["secretName"] = value("accessSecret")


def _tls(spec: Doc, without: Doc) -> None:
    (router,), (plain,) = spec["containers"], without["containers"]
    _volume(spec, "tls")["secret"]["secretName"] = value("secure.tlsSecret")
    for entry in (
        _volume(spec, "tls"),
        next(m for m in router["volumeMounts"] if m["name"] == "tls"),
    ):
        rename(entry, "name", when(SECURE, "name"))
    rename(router, "readinessProbe", when(SECURE, "readinessProbe"))
    router[when(f"not {SECURE}", "readinessProbe")] = plain["readinessProbe"]


def _cluster(doc: Doc) -> None:
    spec = doc["spec"]
    for key in ("enableInTreeAutoscaling", "autoscalerOptions"):
        rename(spec, key, when(_RAY_SCALES, key))
    head = spec["headGroupSpec"]["template"]["spec"]
    head["automountServiceAccountToken"] = value("autoscaling.workers")
    head["containers"][0]["resources"] = value("head.resources")
    for group in spec["workerGroupSpecs"]:
        _group(group, group["groupName"])


def _group(group: Doc, role: str) -> None:
    for key in ("replicas", "minReplicas", "maxReplicas"):
        group[key] = value(f"{role}.{key}")
    group["rayStartParams"]["object-store-memory"] = value(f"{role}.objectStoreBytes")
    spec = group["template"]["spec"]
    _volume(spec, "shm")["emptyDir"]["sizeLimit"] = value(f"{role}.shmSize")
    for key in ("tolerations", "nodeSelector"):
        del spec[key]
        spec[when(f".Values.{role}.{key}", key)] = value(f"{role}.{key}")
    spec["containers"][0]["resources"] = {
        kind: {
            **{name: value(f"{role}.resources.{kind}.{name}") for name in ("cpu", "memory")},
            when(f".Values.{role}.gpus", "nvidia.com/gpu"): value(f"{role}.gpus", "quote"),
        }
        for kind in ("requests", "limits")
    }


def _router_scaling(doc: Doc) -> None:
    for key in ("minReplicas", "maxReplicas"):
        doc["spec"][key] = value(f"router.{key}")


def _worker_scaling(doc: Doc) -> None:
    spec = doc["spec"]["jobTargetRef"]["template"]["spec"]
    (container,) = spec["containers"]
    args = container["args"]
    role = args[0].removeprefix("--").removesuffix("-by")
    for flag, key in (("--min", "minReplicas"), ("--max", "maxReplicas")):
        if flag in args:
            args[args.index(flag) + 1] = value(f"{role}.{key}", "quote")
    container["env"][0]["valueFrom"]["secretKeyRef"]["name"] = value("secure.scalerSecret")
    _volume(spec, "tls")["secret"]["secretName"] = value("secure.tlsSecret")
    for trigger in doc["spec"]["triggers"]:
        trigger["metadata"]["serverAddress"] = value("secure.prometheusAddress")


def _account(doc: Doc) -> None:
    doc[when(".Values.imagePullSecrets", "imagePullSecrets")] = value("imagePullSecrets")


def _volume(spec: Doc, name: str) -> Doc:
    found: Doc = next(v for v in spec["volumes"] if v["name"] == name)
    return found


def rename(mapping: dict[str, Any], old: str, new: str) -> None:
    """Give a key another name at its place."""
    items = [(new if key == old else key, item) for key, item in mapping.items()]
    mapping.clear()
    mapping.update(items)
