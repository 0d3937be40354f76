"""Checks that the objects fit each other, the configuration and the code."""

import json
import shlex
from pathlib import Path
from typing import get_args

from cli.settings import load_config
from common.config import ServeConfig, WorkerSpec
from scripts.kustomize import Doc, containers, one, pod_templates
from tests.unit.deploy.commands import container_commands, option
from tests.unit.deploy.network import pod_labels
from tests.unit.deploy.quantities import bytes_of

ROLES = get_args(WorkerSpec.model_fields["role"].annotation)  # also the names of Ray's resources
_COMPONENT = "app.kubernetes.io/component"
_STOP_S = 20  # stopping the workers (10 s at most) and leaving Ray


def configuration(docs: list[Doc], folder: Path) -> ServeConfig:
    """Return the ConfigMap's file, as the router reads it. Raises SetupError."""
    file = folder / "pdserve.yaml"
    file.write_text(one(docs, "ConfigMap")["data"]["pdserve.yaml"])
    return load_config(file, {})


def port_problems(docs: list[Doc], config: ServeConfig) -> list[str]:
    """Check that Service, container and configuration name the same ports."""
    pod = one(docs, "Deployment")["spec"]["template"]
    router = pod["spec"]["containers"][0]
    declared = {port["name"]: port["containerPort"] for port in router["ports"]}
    problems = []
    if declared != (listening := {"grpc": config.grpc_port, "http": config.http_port}):
        problems.append(f"the container declares {declared}, pdserve listens on {listening}")
    service = one(docs, "Service")["spec"]
    for port in service["ports"]:
        if declared.get(port["targetPort"]) != port["port"]:
            problems.append(f"the Service's port {port} is none of {declared}")
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = router[kind]
        if "grpc" in probe and config.security.tls_cert_file:
            problems.append(f"{kind}: kubelets do not speak TLS in gRPC probes")
        asked = probe["grpc"]["port"] if "grpc" in probe else probe["httpGet"]["port"]
        if asked != (config.grpc_port if "grpc" in probe else "http"):
            problems.append(f"{kind} asks {asked}")
    if not service["selector"].items() <= pod["metadata"]["labels"].items():
        problems.append("the Service selects no router")
    return problems


def role_problems(docs: list[Doc], config: ServeConfig) -> list[str]:
    """Check for one worker group per role, with the Ray resources that `pdserve serve` needs."""
    groups = one(docs, "RayCluster")["spec"]["workerGroupSpecs"]
    problems = []
    if [group["groupName"] for group in groups] != list(ROLES):
        problems.append(f"the worker groups are not {ROLES}")
    for group in groups:
        role = group["groupName"]
        (resources,) = shlex.split(group["rayStartParams"]["resources"])
        if json.loads(resources) != {role: 1}:
            problems.append(f"group {role} advertises {resources}")
        least, most = group["minReplicas"], group["maxReplicas"]
        if (
            group["replicas"] != getattr(config, role, None)
            or not least <= group["replicas"] <= most
        ):
            problems.append(f"group {role} has {group['replicas']} replicas of {least} to {most}")
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        if limits.get("nvidia.com/gpu") != ("1" if config.engine.device == "cuda" else None):
            problems.append(f"group {role} has other GPUs than device {config.engine.device} needs")
        problems += _memory_problems(role, group)
    if config.cluster.roles != "on" or not config.cluster.waits_s:
        problems.append("workers would not wait for the nodes of their role")
    return problems


def _memory_problems(role: str, group: Doc) -> list[str]:
    """Check that the object store fits into /dev/shm, and that into the container's memory."""
    spec = group["template"]["spec"]
    worker = spec["containers"][0]
    [shm] = [m["name"] for m in worker["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    [volume] = [v["emptyDir"] for v in spec["volumes"] if v["name"] == shm]
    store = int(group["rayStartParams"]["object-store-memory"])
    limits = bytes_of(volume["sizeLimit"]), bytes_of(worker["resources"]["limits"]["memory"])
    fits = volume["medium"] == "Memory" and store < limits[0] < limits[1]
    return [] if fits else [f"group {role}: a store of {store} in /dev/shm and memory of {limits}"]


def reference_problems(docs: list[Doc], config: ServeConfig) -> list[str]:
    """Check the names by which one object refers to another."""
    cluster = one(docs, "RayCluster")
    name = cluster["metadata"]["name"]
    spec = one(docs, "Deployment")["spec"]["template"]["spec"]
    words = next(words for words in container_commands(docs) if words[:2] == ["pdserve", "serve"])
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    ray = f"ray://{name}-head-svc:{ports['client']}"
    expected: dict[str, tuple[object, object]] = {
        "--ray-address": (option(words, "--ray-address"), ray),
        "--config": (option(words, "--config"), _config_path(docs, spec)),
    }
    router = spec["containers"][0]
    token = Path({v["name"]: v.get("value", "") for v in router["env"]}["RAY_AUTH_TOKEN_PATH"])
    expected["token's file"] = (token.name, "auth_token")  # KubeRay's key
    expected["token's Secret"] = (_secrets(spec).get(str(token.parent)), name)
    for words in container_commands(docs):
        if words[:3] == ["pdserve", "model", "pull"]:
            expected[f"model in {words}"] = (words[3], config.model)
    return [f"{what}: {a!r} should be {b!r}" for what, (a, b) in expected.items() if a != b]


def access_problems(docs: list[Doc], config: ServeConfig) -> list[str]:
    """Check that a router which others can reach reads its access file from a Secret."""
    file = config.security.access_file
    if file is None:
        return [f"grpc_host {config.grpc_host} without security.access_file"]
    spec = one(docs, "Deployment")["spec"]["template"]["spec"]
    security = config.security
    files = [f for f in (file, security.tls_cert_file, security.tls_key_file) if f is not None]
    folders = list(_secrets(spec))
    return [
        f"{f} is in none of the Secrets {folders}" for f in files if str(f.parent) not in folders
    ]


def _secrets(spec: Doc) -> dict[str, str]:
    """Return the Secrets that the router mounts, by their folders."""
    names = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    mounts = spec["containers"][0]["volumeMounts"]
    return {m["mountPath"]: names[m["name"]] for m in mounts if m["name"] in names}


def pod_problems(docs: list[Doc]) -> list[str]:
    """Check what Kubernetes checks only when it runs a pod, and what our pods must have."""
    problems = []
    account = one(docs, "ServiceAccount")["metadata"]["name"]
    for doc in docs:
        for name, template in pod_templates(doc):
            spec = template["spec"]
            volumes = {volume["name"] for volume in spec["volumes"]}
            if spec.get("serviceAccountName") != account:
                problems.append(f"{name}: service account")
            if spec.get("enableServiceLinks") is not False:
                problems.append(f"{name}: Services would set PDSERVE_* variables")
            if not spec["securityContext"].get("runAsNonRoot"):
                problems.append(f"{name}: may run as root")
            for container in containers(spec):
                where = f"{name}/{container['name']}"
                mounted = {mount["name"] for mount in container["volumeMounts"]}
                problems += [f"{where}: no volume {v}" for v in sorted(mounted - volumes)]
                if not container["securityContext"].get("readOnlyRootFilesystem"):
                    problems.append(f"{where}: its file system is writable")
    return problems


def time_problems(docs: list[Doc], config: ServeConfig) -> list[str]:
    """Check that Kubernetes waits for as long as pdserve may take."""
    spec = one(docs, "Deployment")["spec"]["template"]["spec"]
    router = spec["containers"][0]
    problems = []
    startup = router["startupProbe"]["periodSeconds"] * router["startupProbe"]["failureThreshold"]
    longest = config.start_timeout_s + config.cluster.waits_s
    if startup <= longest:
        problems.append(f"{startup} s for a start that may take {longest:g} s")
    stop = router["lifecycle"]["preStop"]["sleep"]["seconds"] + config.drain_timeout_s + _STOP_S
    if spec["terminationGracePeriodSeconds"] < stop:
        problems.append(f"terminationGracePeriodSeconds is less than {stop} s")
    return problems


def budget_problems(docs: list[Doc]) -> list[str]:
    """Check that each disruption budget's selector matches a pod; otherwise it protects nothing."""
    known = [labels for labels in pod_labels(docs) if labels.get(_COMPONENT) != "scaler"]
    budgets = [doc for doc in docs if doc["kind"] == "PodDisruptionBudget"]
    problems = []
    for labels in known:
        found = [
            b for b in budgets if b["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        # without prefill workers decode workers run the prompts
        if len(found) != int(labels.get("ray.io/group") != "prefill"):
            problems.append(f"{len(found)} budgets for pods with {labels}")
    return problems


def _config_path(docs: list[Doc], spec: Doc) -> str | None:
    """Return the path at which the router finds the ConfigMap's file."""
    config_map = one(docs, "ConfigMap")
    (key,) = config_map["data"]
    name = config_map["metadata"]["name"]
    volumes = [v["name"] for v in spec["volumes"] if v.get("configMap", {}).get("name") == name]
    mounts = spec["containers"][0]["volumeMounts"]
    paths = [mount["mountPath"] for mount in mounts if mount["name"] in volumes]
    return f"{paths[0]}/{key}" if paths else None
