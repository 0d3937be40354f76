"""Capture of decode steps as CUDA graphs, and the models whose steps can be captured."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.attention.flash import FlashBackend
from common.engine.device_inputs import DeviceInputs
from common.engine.fused.decoder import FusedDecoder
from common.engine.graphs.graphed import Capture, GraphedDecoder, GraphLimits
from common.engine.model_runner import TokenModel
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError

_log = get_logger()


class CudaCapture:
    """Capture into graphs that share one memory pool; needs CUDA.

    Sharing is sound: no graph reads memory that another left, and a step's logits are used on the same stream
    before the next step begins.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # one stream for all: a pool's memory and the BLAS library's workspace belong to a stream
        self._stream = torch.cuda.Stream()

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Implement Capture. Calls `run` once before: kernels are loaded and chosen at their first launch."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: calls of CUDA by another thread are no part of the step
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            run()
        replay: Callable[[], None] = graph.replay
        return replay


def graph_decode(model: TokenModel, backend: AttentionBackend, limits: GraphLimits) -> TokenModel:
    """Return the model with its decode steps captured, or the model itself where that cannot be done.

    Needs CUDA. Raises SetupError when a capture fails.
    """
    limits = fitting(limits, backend)
    is_left_out = not limits.max_num_seqs
    if not isinstance(model, FusedDecoder) or is_left_out or not can_capture(model, backend):
        _log.info("cuda_graphs_left_out", model=model.name, backend=backend.name)
        return model
    device = model.weights.embedding.weight.device
    start_s, free_bytes = time.monotonic(), torch.cuda.mem_get_info(device)[0]
    graphed = capture_decode(model, limits, DeviceInputs(device), CudaCapture())
    torch.cuda.synchronize(device)
    _log.info(
        "cuda_graphs_captured",
        batch_sizes=limits.buckets,
        duration_s=time.monotonic() - start_s,
        num_bytes=free_bytes - torch.cuda.mem_get_info(device)[0],
    )
    return graphed


def can_capture(model: FusedDecoder, backend: AttentionBackend) -> bool:
    """Return True if shapes alone decide a step's kernels; "dynamic" rotary scaling reads positions."""
    kinds = model.weights.rotary.rope_type
    names = kinds.values() if isinstance(kinds, dict) else (kinds,)
    return isinstance(backend, FlashBackend) and not any("dynamic" in name for name in names)


def fitting(limits: GraphLimits, backend: AttentionBackend) -> GraphLimits:
    """Return the limits of steps that the backend captures; of 0 sequences, where there are none."""
    most = backend.most_captured(limits.max_blocks) if isinstance(backend, FlashBackend) else 0
    return limits if most is None else replace(limits, max_num_seqs=min(limits.max_num_seqs, most))


def capture_decode(
    decoder: FusedDecoder, limits: GraphLimits, inputs: DeviceInputs, capture: Capture
) -> GraphedDecoder:
    """Capture every size. Raises SetupError when the device, its driver or its memory does not allow it."""
    try:
        return GraphedDecoder(decoder, limits, inputs, capture)
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SetupError(
            f"engine.cuda_graphs 'auto': decode steps cannot be captured: {reason}",
            "set engine.cuda_graphs to 'off', or lower engine.kv_cache_gib or gpu_memory_utilization",
        ) from error
