"""The workers as Ray actors.

Workers are imported inside methods: the launcher and router import this module and must stay free of
torch, and core pinning has to happen before torch starts its threads.
Streams get a thread group of their own, so that a full house of them never blocks a cancel.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import ray

from common.config import WorkerSpec
from common.kv_transfer.wire import WireItem
from common.request import WorkRequest
from deploy.worker_process import OnCrash, WorkerProcess

if TYPE_CHECKING:
    from decode_worker.worker import DecodeWorker
    from prefill_worker.worker import PrefillWorker

F = TypeVar("F", bound=Callable[..., object])


def _control(method: F) -> F:
    grouped: F = ray.method(concurrency_group="control")(method)
    return grouped


def _kv(method: F) -> F:
    grouped: F = ray.method(concurrency_group="kv")(method)
    return grouped


@ray.remote(concurrency_groups={"kv": 128, "control": 4})
class PrefillActor:
    """A prefill worker; decode workers call `stream_kv` and `cancel_kv`."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._process = WorkerProcess(_with_host(spec), _build_prefill)

    def start(self) -> str:
        """See WorkerProcess.start."""
        return self._process.start()

    @_control
    def stop(self) -> None:
        """See WorkerProcess.stop."""
        self._process.stop()

    @_kv
    def stream_kv(self, request: WorkRequest) -> Iterator[WireItem]:
        """See KVSource.stream."""
        yield from self._process.worker.stream(request)

    @_control
    def cancel_kv(self, request_id: str, attempt: int) -> None:
        """See KVSource.cancel."""
        self._process.worker.cancel_stream(request_id, attempt)


@ray.remote(concurrency_groups={"control": 4})
class DecodeActor:
    """A decode worker; routers reach it by gRPC."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._process = WorkerProcess(_with_host(spec), _build_decode)

    def start(self) -> str:
        """See WorkerProcess.start."""
        return self._process.start()

    @_control
    def stop(self) -> None:
        """See WorkerProcess.stop."""
        self._process.stop()


def _build_prefill(spec: WorkerSpec, on_crash: OnCrash) -> "PrefillWorker":
    from prefill_worker.worker import PrefillWorker

    return PrefillWorker(spec, on_crash)


def _build_decode(spec: WorkerSpec, on_crash: OnCrash) -> "DecodeWorker":
    from common.kv_transfer.ray_transport import RayKVTransport
    from decode_worker.worker import DecodeWorker

    return DecodeWorker(spec, RayKVTransport(spec.namespace), on_crash)


def _with_host(spec: WorkerSpec) -> WorkerSpec:
    if spec.bind_host is not None:
        return spec
    return spec.model_copy(update={"bind_host": ray.util.get_node_ip_address()})
