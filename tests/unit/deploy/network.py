"""Checks of network policies: every pod is closed, and what must be open is."""

from collections.abc import Iterator

from scripts.kustomize import Doc, all_of, one, pod_templates

Labels = dict[str, str]
_RAY = {"ray.io/cluster": "pdserve"}


def pod_labels(docs: list[Doc]) -> list[Labels]:
    """Return the labels of each kind of pod, with those that KubeRay adds."""
    found = []
    for doc in docs:
        for name, template in pod_templates(doc):
            labels = dict(template["metadata"]["labels"])
            if doc["kind"] == "RayCluster":
                group, node_type = ("headgroup", "head") if name == "head" else (name, "worker")
                added = {"cluster": doc["metadata"]["name"], "group": group, "node-type": node_type}
                labels |= {f"ray.io/{key}": value for key, value in added.items()}
            found.append(labels)
    return found


def policy_problems(docs: list[Doc]) -> list[str]:
    """Check that policies select pods, that all pods are closed, and that named ports exist."""
    pods, problems = pod_labels(docs), []
    ports = {
        port["name"]
        for doc in docs
        for _, template in pod_templates(doc)
        for container in template["spec"]["containers"]
        for port in container.get("ports", ())
    }
    for policy in all_of(docs, "NetworkPolicy"):
        name = policy["metadata"]["name"]
        if not any(_matches(policy["spec"]["podSelector"], labels) for labels in pods):
            problems.append(f"{name} selects no pod")
        for selector in _peers(policy):
            is_client = selector["matchLabels"] == {"pdserve-client": "true"}
            if not is_client and not any(_matches(selector, labels) for labels in pods):
                problems.append(f"{name} names a peer that is no pod: {selector}")
        used = {p["port"] for rule in _rules(policy) for p in rule.get("ports", ())}
        problems += [f"{name}: no port {p}" for p in used if isinstance(p, str) and p not in ports]
    for labels in pods:
        closed = [p for p in all_of(docs, "NetworkPolicy") if _denies_all(p, labels)]
        if not closed:
            problems.append(f"no policy closes pods with {labels}")
    return problems


def reach_problems(docs: list[Doc]) -> list[str]:
    """Check that routers reach Ray's pods, and Ray's pods each other, in both directions."""
    router = one(docs, "Deployment")["spec"]["template"]["metadata"]["labels"]
    rays = [labels for labels in pod_labels(docs) if _RAY.items() <= labels.items()]
    pairs = [(router, ray) for ray in rays] + [(a, b) for a in rays for b in rays]
    return [
        f"{source} does not reach {target}"
        for source, target in pairs
        if not (
            _allows(docs, source, target, "egress") and _allows(docs, target, source, "ingress")
        )
    ]


def _allows(docs: list[Doc], pod: Labels, peer: Labels, direction: str) -> bool:
    return any(
        _matches(policy["spec"]["podSelector"], pod)
        and any(
            _matches(end["podSelector"], peer)
            for rule in policy["spec"].get(direction, ())
            for end in rule.get("from" if direction == "ingress" else "to", ())
            if "podSelector" in end
        )
        for policy in all_of(docs, "NetworkPolicy")
    )


def _denies_all(policy: Doc, labels: Labels) -> bool:
    spec = policy["spec"]
    is_total = set(spec["policyTypes"]) == {"Ingress", "Egress"}
    return is_total and not [*_rules(policy)] and _matches(spec["podSelector"], labels)


def _rules(policy: Doc) -> Iterator[Doc]:
    yield from policy["spec"].get("ingress", ())
    yield from policy["spec"].get("egress", ())


def _peers(policy: Doc) -> Iterator[Doc]:
    for rule in _rules(policy):
        for end in (*rule.get("from", ()), *rule.get("to", ())):
            if "podSelector" in end:
                yield end["podSelector"]


def _matches(selector: Doc, labels: Labels) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())
