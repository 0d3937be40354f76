"""Workers as Ray actors.

Workers are imported inside functions: the launcher and the router import this module, and they must
not load torch. Cores must be pinned before torch starts its threads.
KV streams have a thread group of their own, so that many streams never block a cancel. So have those who
wait for a process's end: a decode worker may find the process before the supervisor calls its `start`.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import ray
from ray._private import worker as ray_worker

from common.config import WorkerSpec
from common.engine.stages import BeginStage, Stages
from common.kv_transfer.wire import WireItem
from common.low_priority import run_at_low_priority
from common.messages import Role, WorkRequest
from common.telemetry.log_files import new_log_name
from deploy.engine_import import import_builder
from deploy.role_switch import Built
from deploy.versions import read_versions
from deploy.worker_process import Home, OnCrash, WorkerProcess

if TYPE_CHECKING:
    from common.worker.host import EngineHost

_IMPORT_WITHIN_S = 1800.0  # from slow storage; the deployment's own limit is shorter
F = TypeVar("F", bound=Callable[..., object])


def _control(method: F) -> F:
    grouped: F = ray.method(concurrency_group="control")(method)
    return grouped


def _kv(method: F) -> F:
    grouped: F = ray.method(concurrency_group="kv")(method)
    return grouped


def _watch(method: F) -> F:
    grouped: F = ray.method(concurrency_group="watch")(method)
    return grouped


# one of those who watch waits in the thread, and the others in its queue
@ray.remote(concurrency_groups={"kv": 128, "control": 4, "watch": 1})
class WorkerActor:
    """A worker of either role; routers use gRPC, decode workers `stream_kv` and `cancel_kv`."""

    def __init__(self, spec: WorkerSpec) -> None:
        builders = {Role.PREFILL: _build_prefill, Role.DECODE: _build_decode}
        self._process = WorkerProcess(_placed(spec), _build_host, builders)
        node_id, versions = ray.get_runtime_context().get_node_id(), read_versions(spec.name)
        self._home = replace(self._process.home, node_id=node_id, versions=versions)

    def start(self) -> str:
        """Run WorkerProcess.start."""
        return self._process.start()

    @_watch
    def wait_stopped(self) -> None:
        """Run WorkerProcess.wait_stopped; the caller gets an error as soon as the process dies."""
        self._process.wait_stopped()

    @_control
    def home(self) -> Home:
        """Return where the process runs; can be called before the worker has started."""
        return self._home

    @_control
    def address(self) -> str:
        """Return the gRPC address; "" until the worker has started."""
        return self._process.address

    @_control
    def stages(self) -> Stages:
        """Return WorkerProcess.stages."""
        return self._process.stages()

    @_control
    def stop(self) -> None:
        """Run WorkerProcess.stop."""
        self._process.stop()

    @_control
    def flip(self, role: Role) -> None:
        """Run RoleSwitch.flip."""
        self._process.worker.flip(role)

    @_kv
    def stream_kv(self, request: WorkRequest) -> Iterator[WireItem]:
        """Run KVSource.stream."""
        yield from self._process.worker.stream(request)

    @_control
    def cancel_kv(self, request_id: str, attempt: int) -> None:
        """Run KVSource.cancel."""
        self._process.worker.cancel_stream(request_id, attempt)


def _build_host(spec: WorkerSpec, on_crash: OnCrash, stage: BeginStage) -> "EngineHost":
    with stage("importing torch"):
        load = partial(import_builder, spec.model_dir, spec.engine)
        # in a copy of the template all is imported, and looking for room would be what takes long
        gently = spec.starts_gently and "torch" not in sys.modules
        build_host = run_at_low_priority(load, _IMPORT_WITHIN_S) if gently else load()
    from common.engine.memory.gpu_share import keep_to_share
    from common.kv_transfer.ray_store import RayNodeStore

    gc.freeze()  # modules stay: so that a full collection, of 0.2 s else, need not look at them
    keep_to_share(spec.gpu_share, spec.engine)
    store = RayNodeStore(spec.name, spec.namespace, spec.transfer.store_share)
    return build_host(spec, on_crash, store, stage)


def _build_prefill(spec: WorkerSpec, host: "EngineHost") -> Built:
    from prefill_worker.worker import make_prefill_worker

    worker = make_prefill_worker(spec, host)
    return Built(worker.shell, source=worker.source)


def _build_decode(spec: WorkerSpec, host: "EngineHost") -> Built:
    from common.kv_transfer.ray_transport import RayKVTransport
    from decode_worker.worker import make_decode_worker

    return Built(make_decode_worker(spec, host, RayKVTransport(spec.namespace)))


def _placed(spec: WorkerSpec) -> WorkerSpec:
    """Add what its place decides: GPUs, and in a cluster the address and the log file.

    A worker that Ray gave no GPU uses none, also where one is visible: others may have it.
    """
    placed: dict[str, object] = {"gpu_ids": tuple(map(str, ray.get_gpu_ids()))}
    if not placed["gpu_ids"] and spec.engine.device == "auto":
        placed["engine"] = spec.engine.model_copy(update={"device": "cpu"})
    if spec.bind_host is None:
        # below Ray's own logs, so that its dashboard shows the file
        logs = Path(ray_worker._global_node.get_logs_dir_path()) / "pdserve"
        placed["bind_host"] = ray.util.get_node_ip_address()
        placed["log_file"] = logs / spec.namespace / spec.name / new_log_name()
    return spec.model_copy(update=placed)
