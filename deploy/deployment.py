"""One deployment: a Ray session, and its workers under a supervisor."""

import secrets
import time
from pathlib import Path

import ray

from common.config import ServeConfig
from common.machine import read_cores
from common.messages import Role
from deploy.placement import share_cores
from deploy.ray_session import start_ray, stop_ray
from deploy.starting import StartReport
from deploy.supervisor import Supervisor
from deploy.worker_specs import WorkerSpecs
from router.workers.membership import Membership


class Deployment:
    """Owner of the Ray session. `stop` is safe at any moment and leaves nothing behind."""

    def __init__(self, config: ServeConfig, model_name: str, model_dir: Path) -> None:
        self._config = config
        self.cluster_token = secrets.token_urlsafe(32)  # workers demand it from routers
        specs = WorkerSpecs(config, model_name, model_dir, self.cluster_token)
        self.supervisor = Supervisor(config, specs)

    def start(self, report: StartReport) -> Membership:
        """Start Ray and all workers; return them. Raises SetupError.

        `report` is told what the start is waiting for, and how long each stage took.
        """
        config = self._config
        roles = [Role.PREFILL] * config.prefill + [Role.DECODE] * config.decode
        shares = share_cores(len(roles), read_cores(), config.pin)
        report.now("starting Ray")
        begun_s = time.monotonic()
        start_ray(config, sum(share.num_threads for share in shares))
        report.done(f"starting Ray took {time.monotonic() - begun_s:.1f} s")
        return self.supervisor.start(roles, shares, report)

    def stop(self) -> None:
        """Stop workers, then Ray.

        Never call it during `start`; call `supervisor.abort` first to end a change.
        """
        self.supervisor.stop()
        if ray.is_initialized():
            stop_ray()
