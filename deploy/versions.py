"""Versions of what both ends of a deployment must agree on, and what differs between two of them."""

import importlib.metadata
import sys
from collections.abc import Mapping

from common import failpoints
from pdserve.errors import SetupError

Versions = Mapping[str, str]

_PACKAGES = ("pdserve", "ray", "torch")


def read_versions(worker: str = "") -> dict[str, str]:
    """Return the versions that this process runs, by name. "" is one that is not installed.

    Python's patch level does not matter, nor which device torch is built for. `worker` is the name
    that a failpoint may know.
    """
    versions = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    if other := failpoints.value_for("other_torch", worker):
        versions["torch"] = other
    return versions


def check_versions(who: str, theirs: Versions, ours: Versions) -> None:
    """Raise SetupError that names the first difference, and both sides; `who` is the other side."""
    for name, own in ours.items():
        other = theirs.get(name, "")
        if other != own:
            raise SetupError(
                f"{who} has {name} {other or 'missing'}, the deployment has {own or 'none'}",
                "install the same release of pdserve, and what it needs, on all nodes",
            )


def check_router(deployment: Versions) -> None:
    """Raise SetupError if this process, which needs no torch, cannot talk to a deployment."""
    needed = {name: version for name, version in deployment.items() if name != "torch"}
    check_versions("this machine", read_versions(), needed)
