"""Engine of one worker: the model, its KV memory and the runner, built together."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.config import EngineConfig
from common.engine.attention.flash import PAGE
from common.engine.attention.select import select_backend
from common.engine.device_copy import DeviceCopies
from common.engine.dtype import choose_dtype
from common.engine.fused.rounded import rounded_products
from common.engine.fused.select import check_quantization, quantized_format, select_model
from common.engine.graphs.cuda_graphs import graph_decode
from common.engine.graphs.graphed import GraphLimits
from common.engine.kernel_checks.verdicts import AttentionShape, trusted_attention
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.host_budget import check_memory
from common.engine.memory.kv_cache import KVCache, Storage
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.model_runner import ModelRunner
from common.engine.model_spec import ModelSpec
from common.engine.profiling.costs import Costs, within_limits
from common.engine.raising import with_failpoint
from common.engine.self_check import CHECK_TOKENS, SelfCheck
from common.engine.stages import BeginStage, untold
from common.engine.state.cache import StateCache
from common.engine.state.hybrid import add_state
from common.engine.state.slots import StateSlots
from common.engine.weights.load import load_model
from common.grammar.matcher import MaskFiller
from common.profile import WorkerProfile
from pdserve.errors import SetupError

BUILD_TIMEOUT_S = 1800.0  # a large model from slow storage; the deployment's own limit is shorter
_BLOCK_SIZE = {"cpu": 16, "cuda": PAGE}


@dataclass(frozen=True, slots=True)
class Engine:
    """Parts that both worker roles are made of; each adds its scheduler."""

    spec: ModelSpec
    config: EngineConfig
    prefix: PrefixCache
    cache: KVCache
    runner: ModelRunner
    costs: Costs
    states: StateCache | None = None  # of a model that has layers with state

    @property
    def pool(self) -> BlockPool:
        """Owner of the KV blocks."""
        return self.prefix.pool


def build_engine(
    model_dir: Path,
    config: EngineConfig,
    num_threads: int,
    memory_bytes: int | None = None,
    stage: BeginStage = untold,
) -> Engine:
    """Load the model, allocate KV memory, and prove with a self-check that attention is honoured.

    `memory_bytes` is the host memory it may take; None: all that is available. Raises SetupError when the
    machine or the model does not allow it.
    """
    device = select_device(config)
    if device.type == "cpu":
        # numba takes 0.3 s to import; a CUDA worker never needs it
        from common.engine.cpu.threads import set_num_threads

        set_num_threads(num_threads)
    chosen = choose_dtype(config, model_dir, device, memory_bytes)
    config = config.model_copy(update={"dtype": chosen.dtype})
    if device.type == "cpu":
        check_memory(model_dir, config, memory_bytes)
    with stage("loading weights") as remark:
        model, spec = load_model(
            model_dir, chosen.dtype, device, allow_unused_weights=config.allow_unused_weights
        )
        remark.text = f"{chosen.dtype}, {chosen.reason}"
    spec = replace(spec, dtype_reason=chosen.reason).quantized(config.quantization)
    return assemble_engine(model, spec, config, device, stage)


def assemble_engine(
    model: torch.nn.Module,
    spec: ModelSpec,
    config: EngineConfig,
    device: torch.device,
    stage: BeginStage = untold,
) -> Engine:
    """Build an engine of a model that lies on `device` and has our attention, as build_engine does."""
    check_quantization(model, config, device)
    with stage("running the model alone"), rounded_products(model, quantized_format(config)):
        check = SelfCheck(model, spec)
    spec = replace(spec, state=check.state_layout)
    block_size = config.block_size or _BLOCK_SIZE[device.type]
    # a block of the graphs, of which the pool does not know
    has_graphs = device.type == "cuda" and config.cuda_graphs == "auto" and spec.state is None
    num_scratch = int(has_graphs)
    num_blocks = _count_blocks(config, spec, block_size, num_scratch)
    storage = _storage(spec, config, device)
    with stage("allocating KV memory"):
        cache = KVCache(spec, num_blocks + num_scratch, block_size, device, storage)
    backend = select_backend(config.attention_backend, cache, spec.num_heads, spec.extras)
    with stage("preparing weights"):
        token_model = with_failpoint(select_model(model, config, backend, device))
        token_model, states = add_state(token_model, model, spec, config.max_num_seqs, device)
    mask_filler = MaskFiller(spec.vocab_size)
    # with state no step begins before the one before it has landed: see StateCache
    copies = DeviceCopies() if device.type == "cuda" and states is None else None
    runner = ModelRunner(token_model, block_size, spec.eos_token_ids, mask_filler, copies)
    pool = BlockPool(num_blocks, block_size)
    with stage("probing attention"):
        check.run(runner, cache, pool, states)
    if num_scratch:
        # captured after the check, so that an error of the model itself is not blamed on graphs
        with stage("capturing CUDA graphs"):
            token_model = graph_decode(token_model, backend, _graph_limits(config, spec, pool))
        runner = ModelRunner(token_model, block_size, spec.eos_token_ids, mask_filler, copies)
        check.run(runner, cache, pool)
    prefix = _prefix_cache(pool, spec, config)
    costs = Costs(within_limits(WorkerProfile(), config))
    return Engine(spec, config, prefix, cache, runner, costs, states)


def attention_shapes(
    spec: ModelSpec, config: EngineConfig, device: torch.device
) -> list[AttentionShape]:
    """Return the shapes to compile the CPU's attention kernels for; none where they are not used."""
    if device.type != "cpu" or config.attention_backend not in ("auto", "cpu"):
        return []
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.attention_kernel import can_compile_kernel

    size = config.block_size or _BLOCK_SIZE[device.type]
    shapes = dict.fromkeys(spec.kv_shapes)
    if not all(can_compile_kernel(size, dim) for _, *dims in shapes for dim in dims):
        return []
    return [
        AttentionShape(
            spec.dtype,
            size,
            key,
            spec.num_heads // heads,
            value_dim=None if key == value else value,
            has_extras=bool(spec.extras),
        )
        for heads, key, value in shapes
    ]


def _prefix_cache(pool: BlockPool, spec: ModelSpec, config: EngineConfig) -> PrefixCache:
    """Return the allocator; with state nothing is shared, since blocks alone do not make a prefix."""
    is_enabled = config.prefix_cache == "auto" and spec.state is None
    slots = None if spec.state is None else StateSlots(config.max_num_seqs)
    return PrefixCache(pool, spec.fingerprint, is_enabled=is_enabled, slots=slots)


def _storage(spec: ModelSpec, config: EngineConfig, device: torch.device) -> Storage:
    """Return "packed" where the CPU's attention kernels run, else "pages"."""
    shapes = attention_shapes(spec, config, device)
    are_right = bool(shapes) and all(trusted_attention(shape) is None for shape in shapes)
    return "packed" if are_right else "pages"


def _count_blocks(config: EngineConfig, spec: ModelSpec, block_size: int, num_scratch: int) -> int:
    """Count the blocks that fit into the memory for KV. Raises SetupError when they are too few."""
    block_bytes = KVCache.block_bytes(spec, block_size)
    num_blocks = int(config.kv_cache_gib * 2**30) // block_bytes - num_scratch
    if num_blocks < 2 or num_blocks * block_size < CHECK_TOKENS:
        raise SetupError(
            f"engine.kv_cache_gib {config.kv_cache_gib} holds {num_blocks} blocks of {block_bytes} bytes",
            "raise it",
        )
    return num_blocks


def _graph_limits(config: EngineConfig, spec: ModelSpec, pool: BlockPool) -> GraphLimits:
    longest = pool.num_blocks_for(spec.max_context_tokens)
    return GraphLimits(
        max_num_seqs=config.max_num_seqs,
        max_blocks=min(longest, pool.num_blocks),
        block_size=pool.block_size,
        scratch_block=pool.num_blocks,
    )


def select_device(config: EngineConfig) -> torch.device:
    """Choose the device to run on. Raises SetupError when it is asked for and absent."""
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise SetupError("engine.device 'cuda' is not available", "this machine has: cpu")
    return torch.device("cuda" if config.device != "cpu" and has_cuda else "cpu")
