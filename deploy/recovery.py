"""Search for a worker that an earlier process of the supervisor started."""

from pathlib import Path

import ray
from ray.exceptions import RayError

from common.config import WorkerSpec
from deploy.launched import Launched
from deploy.placement import Share
from deploy.starting import Ready
from deploy.worker_process import Home

_ANSWER_WITHIN_S = 10.0


def look_for(spec: WorkerSpec, share: Share) -> Ready:
    """Return a worker by its name; its address is "" if no process serves under it.

    A worker that hangs counts as one that does not serve: it is started again.
    """
    try:
        handle = ray.get_actor(spec.name, spec.namespace)
    except (RayError, ValueError):  # Ray knows no such actor
        return Ready(Launched(spec, None, share), "")
    try:
        asked = [handle.home.remote(), handle.address.remote()]
        home, address = ray.get(asked, timeout=_ANSWER_WITHIN_S)
    except RayError:
        return Ready(Launched(spec, handle, share), "")
    return Ready(Launched(_at_home(spec, home), handle, share, home), address)


def _at_home(spec: WorkerSpec, home: Home) -> WorkerSpec:
    """Return the specification with the log that the process really has."""
    is_here = spec.log_file is not None and home.log_file
    return spec.model_copy(update={"log_file": Path(home.log_file)}) if is_here else spec
