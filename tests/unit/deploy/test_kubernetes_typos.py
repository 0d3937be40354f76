"""Checks of test_kubernetes: each refuses a copy with one mistake in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import ServeConfig
from pdserve.errors import SetupError
from scripts.kustomize import BASE, OVERLAYS, Doc, one, render
from tests.unit.deploy import fitting
from tests.unit.deploy.autoscaling import scaling_problems
from tests.unit.deploy.commands import container_commands, pdserve_problems
from tests.unit.deploy.network import policy_problems, reach_problems
from tests.unit.deploy.objects import object_problems

Edit = Callable[[list[Doc]], object]


def _cluster(docs: list[Doc]) -> Doc:
    spec: Doc = one(docs, "RayCluster")["spec"]
    return spec


def _group(docs: list[Doc]) -> Doc:
    group: Doc = _cluster(docs)["workerGroupSpecs"][0]
    return group


def _pod(docs: list[Doc]) -> Doc:
    spec: Doc = one(docs, "Deployment")["spec"]["template"]["spec"]
    return spec


def _router(docs: list[Doc]) -> Doc:
    container: Doc = _pod(docs)["containers"][0]
    return container


def _named(docs: list[Doc], name: str) -> Doc:
    spec: Doc = next(d["spec"] for d in reversed(docs) if d["metadata"]["name"] == name)
    return spec


def _scale(docs: list[Doc]) -> list[str]:
    spec = _named(docs, "pdserve-decode-up")["jobTargetRef"]["template"]["spec"]
    args: list[str] = spec["containers"][0]["args"]
    return args


def _refused(problems: list[str], mention: str) -> None:
    assert any(mention in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("edit", "mention"),
    [
        (lambda d: _cluster(d).update(workerGroupSpec=[]), "workerGroupSpec"),
        (lambda d: _group(d).update(replica=2), "replica"),
        (lambda d: _group(d).update(replicas="1"), "'1'"),
        (lambda d: _group(d)["rayStartParams"].update({"num-cpus": 4}), "num-cpus"),
        (lambda d: _group(d)["template"]["spec"].update(toleration=[]), "toleration"),
        (lambda d: _cluster(d)["authOptions"].update(mode="tokens"), "tokens"),
        (lambda d: _router(d).update(portz=[]), "portz"),
        (lambda d: one(d, "Service")["spec"]["ports"][0].update(targetport=1), "targetport"),
        (lambda d: one(d, "Deployment")["spec"].pop("selector"), "selector"),
    ],
)
def test_a_field_that_the_schema_lacks(edit: Edit, mention: str) -> None:
    docs = render(BASE)
    edit(docs)
    _refused(object_problems(docs), mention)


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (["--ray-adress", "ray://pdserve-head-svc:10001"], "--ray-adress"),
        (["--config"], "--config"),
        (["model-a", "model-b"], "model-b"),
        (["--prefill", "two"], "prefill"),
    ],
)
def test_a_command_line_that_pdserve_refuses(words: list[str], mention: str) -> None:
    docs = render(BASE)
    _router(docs)["args"] = words
    problems = [p for words in container_commands(docs) for p in pdserve_problems(words)]
    _refused(problems, mention)


@pytest.mark.parametrize(
    ("old", "new", "mention"),
    [
        ("grpc_host:", "grpc_hosts:", "grpc_hosts"),
        ("kv_cache_gib: 1", "kv_cache_gb: 1", "kv_cache_gb"),
        ("device: cpu", "device: gpu", "engine.device"),
        ("prefill: 1", "prefill: one", "prefill"),
    ],
)
def test_a_configuration_that_pdserve_refuses(
    old: str, new: str, mention: str, tmp_path: Path
) -> None:
    docs = render(BASE)
    data = one(docs, "ConfigMap")["data"]
    assert old in data["pdserve.yaml"]
    data["pdserve.yaml"] = data["pdserve.yaml"].replace(old, new)
    with pytest.raises(SetupError, match=mention):
        fitting.configuration(docs, tmp_path)


@pytest.mark.parametrize(
    ("edit", "mention"),
    [
        (lambda d: one(d, "Service")["spec"]["ports"][0].update(port=50052), "50052"),
        (lambda d: one(d, "Service")["spec"]["ports"][0].update(targetPort="grcp"), "grcp"),
        (lambda d: _router(d)["ports"][1].update(containerPort=8081), "8081"),
        (lambda d: _router(d)["livenessProbe"]["httpGet"].update(port="grpc"), "livenessProbe"),
        (lambda d: _router(d)["readinessProbe"]["grpc"].update(port=8080), "readinessProbe asks"),
        (lambda d: one(d, "Service")["spec"]["selector"].update(a="b"), "selects no router"),
        (lambda d: _group(d).update(groupName="prefil"), "worker groups"),
        (lambda d: _group(d)["rayStartParams"].update(resources='"{\\"pre\\": 1}"'), "advertises"),
        (lambda d: _group(d).update(replicas=2), "replicas"),
        (lambda d: _router(d)["args"].__setitem__(3, "ray://pdserve-head:10001"), "--ray-address"),
        (lambda d: _router(d)["args"].__setitem__(1, "/etc/pdserve.yaml"), "--config"),
        (
            lambda d: _pod(d)["initContainers"][0].update(
                command=["pdserve", "model", "pull", "m"]
            ),
            "'m'",
        ),
        (lambda d: _router(d)["env"][2].update(value="/etc/ray-auth/token"), "token's file"),
        (lambda d: _router(d)["env"][2].update(value="/etc/ray/auth_token"), "token's Secret"),
        (
            lambda d: _group(d)["rayStartParams"].update({"object-store-memory": "9" * 10}),
            "/dev/shm",
        ),
        (lambda d: _pod(d).update(terminationGracePeriodSeconds=30), "terminationGrace"),
        (lambda d: _router(d)["startupProbe"].update(failureThreshold=6), "60 s"),
        (lambda d: _pod(d)["volumes"].pop(), "no volume tmp"),
        (lambda d: _pod(d)["volumes"][1].pop("secret"), "none of the Secrets"),
        (lambda d: _pod(d).pop("enableServiceLinks"), "PDSERVE_"),
        (lambda d: _pod(d)["securityContext"].update(runAsNonRoot=False), "root"),
        (lambda d: _router(d).update(securityContext={}), "writable"),
        (
            lambda d: _named(d, "pdserve-decode")["selector"].update(matchLabels={"a": "b"}),
            "0 budgets",
        ),
        (lambda d: _named(d, "pdserve-ray").pop("ingress"), "does not reach"),
        (lambda d: _named(d, "pdserve-ray").pop("egress"), "does not reach"),
        (lambda d: _named(d, "pdserve-default-deny")["policyTypes"].pop(), "no policy closes"),
        (
            lambda d: _named(d, "pdserve-ray")["podSelector"].update(matchLabels={"a": "b"}),
            "selects no pod",
        ),
    ],
)
def test_objects_that_do_not_fit(edit: Edit, mention: str, tmp_path: Path) -> None:
    docs = render(BASE)
    config = fitting.configuration(docs, tmp_path)
    edit(docs)
    _refused(_problems(docs, config), mention)


@pytest.mark.parametrize(
    ("edit", "mention"),
    [
        (lambda d: _router(d).update(readinessProbe={"grpc": {"port": 50051}}), "TLS"),
        (lambda d: one(d, "Deployment")["spec"].update(replicas=2), "undo the autoscaler"),
        (
            lambda d: one(d, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"].update(name="x"),
            "scales no Deployment",
        ),
        (lambda d: _cluster(d).pop("enableInTreeAutoscaling"), "no autoscaler"),
        (lambda d: _group(d).update(maxReplicas=3), "--max"),
        (
            lambda d: _named(d, "pdserve-decode-up")["triggers"][0]["metadata"].update(
                query="pdserve_worker_kv_block"
            ),
            "no metric pdserve_worker_kv_block",
        ),
        (lambda d: _scale(d).__setitem__(5, "pdserve:50051"), "asks pdserve:50051"),
        (lambda d: _pod(d)["volumes"].pop(), "/etc/pdserve-tls"),
    ],
)
def test_an_overlay_that_does_not_fit(edit: Edit, mention: str, tmp_path: Path) -> None:
    docs = render(OVERLAYS / "secure")
    config = fitting.configuration(docs, tmp_path)
    edit(docs)
    _refused(_problems(docs, config), mention)


def _problems(docs: list[Doc], config: ServeConfig) -> list[str]:
    return [
        *fitting.port_problems(docs, config),
        *fitting.role_problems(docs, config),
        *fitting.reference_problems(docs, config),
        *fitting.time_problems(docs, config),
        *fitting.access_problems(docs, config),
        *fitting.pod_problems(docs),
        *fitting.budget_problems(docs),
        *policy_problems(docs),
        *reach_problems(docs),
        *scaling_problems(docs),
    ]
