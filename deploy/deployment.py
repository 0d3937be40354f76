"""One deployment: workers as named Ray actors, started together and stopped together."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import ActorAlreadyExistsError, ActorDiedError, RayError, RayTaskError

from common.config import ServeConfig, WorkerSpec
from deploy.actors import DecodeActor, PrefillActor
from deploy.placement import Share, share_cores
from deploy.ray_session import start_ray, stop_ray
from pdserve.errors import SetupError

_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Started:
    name: str
    handle: ActorHandle


class Deployment:
    """Owns the Ray session and the worker actors. `stop` is safe at any moment and leaves nothing behind."""

    def __init__(self, config: ServeConfig, model_name: str, model_dir: Path) -> None:
        self._config = config
        self._model_name = model_name
        self._model_dir = model_dir
        self._actors: list[_Started] = []
        self._is_private = True
        self._is_aborted = threading.Event()

    def start(self, report: Callable[[str], None]) -> list[str]:
        """Start Ray and all workers; returns their gRPC addresses. Raises SetupError.

        `report` is told what is being waited for.
        """
        shares = self._shares()
        report("starting Ray")
        self._is_private = start_ray(self._config, sum(share.num_threads for share in shares))
        for spec, share in zip(self._specs(shares), shares, strict=True):
            self._actors.append(_Started(spec.name, self._create(spec, share)))
        report(f"loading {self._model_name} into {len(self._actors)} workers")
        pending = {actor.name: actor.handle.start.remote() for actor in self._actors}
        return [self._await_start(name, ref) for name, ref in pending.items()]

    def abort(self) -> None:
        """Make a `start` that runs in another thread give up soon."""
        self._is_aborted.set()

    def stop(self) -> None:
        """Stop workers, then Ray. Never while `start` runs."""
        if ray.is_initialized():
            with contextlib.suppress(RayError):
                stops = [actor.handle.stop.remote() for actor in self._actors]
                ray.wait(stops, num_returns=len(stops), timeout=_STOP_TIMEOUT_S) if stops else None
            for actor in self._actors:
                with contextlib.suppress(RayError):
                    ray.kill(actor.handle)
        self._actors.clear()
        stop_ray()

    def _shares(self) -> list[Share]:
        num_workers = self._config.prefill + self._config.decode
        return share_cores(num_workers, sorted(os.sched_getaffinity(0)), self._config.pin)

    def _specs(self, shares: list[Share]) -> list[WorkerSpec]:
        config = self._config
        names = [("prefill", i) for i in range(config.prefill)]
        names += [("decode", i) for i in range(config.decode)]
        return [
            WorkerSpec.model_validate(
                {
                    "name": f"{role}-{index}",
                    "role": role,
                    "model_dir": self._model_dir,
                    "model_name": self._model_name,
                    "namespace": config.namespace,
                    "bind_host": "127.0.0.1" if self._is_private else None,
                    "num_threads": share.num_threads if self._is_private else 0,
                    "cores": share.cores if self._is_private else (),
                    "engine": config.engine,
                    "transfer": config.transfer,
                }
            )
            for (role, index), share in zip(names, shares, strict=True)
        ]

    def _create(self, spec: WorkerSpec, share: Share) -> ActorHandle:
        # ray.remote turns both into ActorClass, which type checkers do not see
        actor_class: ActorClass = PrefillActor if spec.role == "prefill" else DecodeActor
        options = self._resources(spec.role, share)
        try:
            handle: ActorHandle = actor_class.options(
                name=spec.name, namespace=spec.namespace, max_restarts=0, **options
            ).remote(spec)
        except (ValueError, ActorAlreadyExistsError) as error:  # the second through ray://
            raise SetupError(
                f"Ray already has a worker named {spec.name} in namespace '{spec.namespace}'",
                "choose another namespace",
            ) from error
        return handle

    def _resources(self, role: str, share: Share) -> dict[str, object]:
        """A private Ray counts threads; a cluster places by its `prefill` and `decode` resources and GPUs."""
        if self._is_private:
            return {"num_cpus": share.num_threads}
        cluster = ray.cluster_resources()
        options: dict[str, object] = {"num_cpus": 1}
        if role in cluster:
            options["resources"] = {role: 1}
        if self._config.engine.device == "cuda":
            options["num_gpus"] = 1
        return options

    def _await_start(self, name: str, ref: "ray.ObjectRef[str]") -> str:
        deadline = time.monotonic() + self._config.start_timeout_s
        try:
            while not ray.wait([ref], timeout=_POLL_S)[0]:
                if self._is_aborted.is_set():
                    raise SetupError("starting was interrupted")
                if time.monotonic() > deadline:
                    raise SetupError(
                        f"worker {name} was not ready in {self._config.start_timeout_s} s",
                        "raise start_timeout_s",
                    )
            address: str = ray.get(ref, timeout=_POLL_S)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, SetupError):
                raise cause from None
            raise SetupError(f"worker {name} failed to start: {cause!r}") from error
        except ActorDiedError as error:
            raise SetupError(f"worker {name} died while starting") from error
        return address
