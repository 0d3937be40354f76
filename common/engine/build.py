"""Engine of one worker: the model, its KV memory and the runner, built together."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.attention.kernel_shapes import block_size_of, storage_of
from common.engine.attention.select import select_backend
from common.engine.device import select_device
from common.engine.device_copy import DeviceCopies
from common.engine.dtype import choose_dtype
from common.engine.fused.rounded import rounded_products
from common.engine.fused.select import (
    check_device,
    check_kept,
    check_quantization,
    quantized_format,
    select_model,
)
from common.engine.gpu_trial import GpuTrial, WithBackend
from common.engine.graphs.cuda_graphs import graph_decode
from common.engine.graphs.graphed import GraphLimits
from common.engine.kv_dtype import check_kv_device
from common.engine.limits import Limits, choose_limits, fit_blocks
from common.engine.loading import load_weights
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.gpu_share import GpuRoom
from common.engine.memory.host_budget import HostRoom
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.kv_want import KVWant
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.memory.room import Room, read_room
from common.engine.memory.worker_share import WorkerShare
from common.engine.model_runner import ModelRunner
from common.engine.model_spec import ModelSpec
from common.engine.profiling.costs import Costs, within_limits
from common.engine.raising import with_failpoint
from common.engine.self_check import CHECK_TOKENS, SelfCheck
from common.engine.stages import BeginStage, untold
from common.engine.state.cache import StateCache
from common.engine.state.hybrid import add_state, fit_states
from common.engine.state.slots import StateSlots
from common.grammar.matcher import MaskFiller
from common.kv_capacity import describe_capacity
from common.machine import read_memory
from common.profile import WorkerProfile
from pdserve.errors import SetupError

BUILD_TIMEOUT_S = 1800.0  # a large model from slow storage; the deployment's own limit is shorter
_WHOLE = WorkerShare()


@dataclass(frozen=True, slots=True)
class Engine:
    """Parts that both worker roles are made of; each adds its scheduler."""

    spec: ModelSpec
    config: EngineConfig
    prefix: PrefixCache
    cache: KVCache
    runner: ModelRunner
    costs: Costs
    limits: Limits
    states: StateCache | None = None  # of a model that has layers with state

    @property
    def pool(self) -> BlockPool:
        """Owner of the KV blocks."""
        return self.prefix.pool


def build_engine(
    model_dir: Path,
    config: EngineConfig,
    num_threads: int,
    share: WorkerShare = _WHOLE,
    stage: BeginStage = untold,
) -> Engine:
    """Load the model, allocate KV memory, and prove with a self-check that attention is honoured.

    Raises SetupError when the machine, the worker's share of it, or the model does not allow it.
    """
    device = select_device(config)
    check_device(config, device)
    check_kv_device(config, device)
    check_kept(model_dir, config, device)
    if device.type == "cpu":
        # numba takes 0.3 s to import; a CUDA worker never needs it
        from common.engine.cpu.threads import set_num_threads

        set_num_threads(num_threads)
    chosen = choose_dtype(config, model_dir, device, share.most_bytes(read_memory()))
    config = config.model_copy(update={"dtype": chosen.dtype})
    room = read_room(config, device, share, model_dir)
    model, spec = load_weights(
        model_dir,
        config,
        chosen,
        device,
        lambda spec: room.check(config.kv_cache_gib, _want(spec, config, device)),
        stage,
    )
    return assemble_engine(model, spec, config, device, stage, room)


def assemble_engine(
    model: torch.nn.Module,
    spec: ModelSpec,
    config: EngineConfig,
    device: torch.device,
    stage: BeginStage = untold,
    room: Room | None = None,
) -> Engine:
    """Build an engine; with `room`, the memory before `model` was loaded, the engine may empty the model."""
    check_quantization(model, config, device)
    with stage("running the model alone"), rounded_products(model, quantized_format(config)):
        check = SelfCheck(model, spec)
    spec = replace(spec, state=check.state_layout)
    block_size, num_scratch = block_size_of(config, device), _num_scratch(spec, config, device)
    with stage("preparing weights"):
        with_backend = select_model(model, config, device, may_empty=room is not None)
    num_bytes = _kv_bytes(spec, config, device, room, with_backend, stage)
    num_blocks, limits = _fit(spec, config, device, num_bytes, num_scratch)
    with stage("allocating KV memory") as remark:
        cache = _cache(spec, config, device, num_blocks + num_scratch)
        remark.text = _told(cache, num_blocks, spec, limits)
    backend = select_backend(config.attention_backend, cache, spec.num_heads, spec.extras)
    token_model = with_failpoint(with_backend(backend))
    stateful = add_state(token_model, model, spec, limits.max_num_seqs, cache)
    token_model, states, check_mixers = stateful
    rest = (block_size, spec.eos_token_ids, MaskFiller(spec.vocab_size), _copies(device, states))
    runner = ModelRunner(token_model, *rest)
    pool = BlockPool(num_blocks, block_size)
    with stage("probing attention") as remark:
        remark.text = check.run(runner, cache, pool, states)
        check_mixers()
    if num_scratch:
        # captured after the check, so that an error of the model itself is not blamed on graphs
        with stage("capturing CUDA graphs"):
            token_model = graph_decode(token_model, backend, _graph_limits(limits, spec, pool))
        runner = ModelRunner(token_model, *rest)
        check.run(runner, cache, pool)
    prefix, costs = _prefix_cache(pool, spec, config, limits), _costs(limits)
    return Engine(spec, config, prefix, cache, runner, costs, limits, states)


def _num_scratch(spec: ModelSpec, config: EngineConfig, device: torch.device) -> int:
    """Return the number of blocks of the graphs, of which the pool does not know."""
    has_graphs = device.type == "cuda" and config.cuda_graphs == "auto" and spec.state is None
    return int(has_graphs)


def _fit(
    spec: ModelSpec, config: EngineConfig, device: torch.device, num_bytes: int, num_scratch: int
) -> tuple[int, Limits]:
    """Return the blocks in `num_bytes`, and the limits of sequences that fit there with their states."""
    limits, num_bytes = fit_states(choose_limits(config, device.type), config, spec, num_bytes)
    block_size = block_size_of(config, device)
    block_bytes = KVCache.block_bytes(spec, block_size)
    num_blocks = _count_blocks(config, block_bytes, block_size, num_bytes, num_scratch)
    if (
        not spec.kv_layers
    ):  # nothing is kept there, so more than sequences can count in are of no use
        each = -(-spec.max_context_tokens // block_size)
        num_blocks = min(num_blocks, each * limits.max_num_seqs)
    return num_blocks, fit_blocks(limits, config, num_blocks)


def _copies(device: torch.device, states: StateCache | None) -> DeviceCopies | None:
    """Return the copier for steps that are queued; with state, each lands at once (see StateCache)."""
    return DeviceCopies() if device.type == "cuda" and states is None else None


def _prefix_cache(
    pool: BlockPool, spec: ModelSpec, config: EngineConfig, limits: Limits
) -> PrefixCache:
    """Return the allocator; with state nothing is shared, since blocks alone do not make a prefix."""
    is_enabled = config.prefix_cache == "auto" and spec.state is None
    slots = None if spec.state is None else StateSlots(limits.max_num_seqs)
    return PrefixCache(pool, spec.fingerprint, is_enabled=is_enabled, slots=slots)


def _costs(limits: Limits) -> Costs:
    return Costs(within_limits(WorkerProfile(), limits))


def _want(spec: ModelSpec, config: EngineConfig, device: torch.device) -> KVWant:
    limits = choose_limits(config, device.type)
    return KVWant.of(spec, limits, block_size_of(config, device))


def _kv_bytes(
    spec: ModelSpec,
    config: EngineConfig,
    device: torch.device,
    room: Room | None,
    with_backend: WithBackend,
    stage: BeginStage,
) -> int:
    """Return the memory for KV: a size that is set, else what the worker has. Raises SetupError."""
    want, room = _want(spec, config, device), room or read_room(config, device)
    if isinstance(room, HostRoom):
        return room.kv_bytes(config.kv_cache_gib, want)
    if config.kv_cache_gib != "auto":
        return int(config.kv_cache_gib * 2**30)
    with stage("measuring memory"):
        block_size = block_size_of(config, device)
        trial = GpuTrial(spec, config, device, with_backend, block_size)
        # steps with states need more than the trial has; they capture no graphs
        left = trial.measure(room) if spec.state is None else GpuRoom.read(device, room.share)
    return left.kv_bytes(config.gpu_memory_utilization, want)


def _count_blocks(
    config: EngineConfig, block_bytes: int, block_size: int, num_bytes: int, num_scratch: int
) -> int:
    """Count the blocks that fit into the memory for KV. Raises SetupError when they are too few."""
    num_blocks = num_bytes // block_bytes - num_scratch
    if num_blocks < 2 or num_blocks * block_size < CHECK_TOKENS:
        is_set = config.kv_cache_gib != "auto"
        raise SetupError(
            f"engine.kv_cache_gib {config.kv_cache_gib} holds {num_blocks} blocks of {block_bytes} bytes",
            "raise it" if is_set else "give the worker more memory",
        )
    return num_blocks


def _cache(spec: ModelSpec, config: EngineConfig, device: torch.device, num_blocks: int) -> KVCache:
    block_size = block_size_of(config, device)
    return KVCache(spec, num_blocks, block_size, device, storage_of(spec, config, device))


def _told(cache: KVCache, num_blocks: int, spec: ModelSpec, limits: Limits) -> str:
    num_tokens = num_blocks * cache.block_size
    capacity = describe_capacity(num_tokens, spec.max_context_tokens, limits.max_num_seqs)
    return f"{cache.num_bytes / 2**30:.2f} GiB: {capacity}"


def _graph_limits(limits: Limits, spec: ModelSpec, pool: BlockPool) -> GraphLimits:
    longest = pool.num_blocks_for(spec.max_context_tokens)
    return GraphLimits(
        max_num_seqs=limits.max_num_seqs,
        max_blocks=min(longest, pool.num_blocks),
        block_size=pool.block_size,
        scratch_block=pool.num_blocks,
    )
