"""Specifications of a deployment's workers."""

from pathlib import Path

from common.certificates import WorkerAccess
from common.config import ServeConfig, WorkerSpec
from common.messages import Role
from common.telemetry.log_files import default_log_dir, new_log_name
from deploy.placement import Share


class WorkerSpecs:
    """Makes specifications. A name is the first role and a number, and no two workers get the same."""

    def __init__(
        self, config: ServeConfig, model_name: str, model_dir: Path, access: WorkerAccess
    ) -> None:
        self._config = config
        self._model_name = model_name
        self._model_dir = model_dir
        self._access = access
        self._is_private = config.ray_address is None
        self.num_names: dict[str, int] = dict.fromkeys(Role, 0)  # given out so far

    def new(self, role: Role, share: Share, memory_bytes: int | None) -> WorkerSpec:
        """Return the specification of a new worker."""
        name = f"{role}-{self.num_names[role]}"
        self.num_names[role] += 1
        return self.named(name, role, share, memory_bytes)

    def named(self, name: str, role: str, share: Share, memory_bytes: int | None) -> WorkerSpec:
        """Return the specification of a worker that has a name."""
        config = self._config
        return WorkerSpec.model_validate(
            {
                "name": name,
                "role": str(role),
                "model_dir": self._model_dir,
                "model_name": self._model_name,
                "namespace": config.namespace,
                "bind_host": "127.0.0.1" if self._is_private else None,
                "num_threads": share.num_threads if self._is_private else 0,
                "cores": share.cores if self._is_private else (),
                "log_file": self._log_file(name),
                "memory_bytes": memory_bytes,
                "cluster_token": self._access.token,
                "certificates": self._access.certificates,
                "engine": config.engine,
                "transfer": config.transfer,
            }
        )

    def again(self, spec: WorkerSpec, *, is_gentle: bool) -> WorkerSpec:
        """Return the specification of another process for the same worker: it has its own log."""
        changes = {"log_file": self._log_file(spec.name), "starts_beside_others": is_gentle}
        return spec.model_copy(update=changes)

    def _log_file(self, name: str) -> Path | None:
        if not self._is_private:
            return None  # the worker's node chooses it
        return default_log_dir() / self._config.namespace / name / new_log_name()
