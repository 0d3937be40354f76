"""An engine on the flash backend, in plain torch on the CPU or on a device, with and without graphs."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.config import StoredDtype
from common.engine.attention.flash import FlashBackend, VarlenAttention
from common.engine.build import Engine
from common.engine.device_inputs import DeviceInputs
from common.engine.fused.decoder import FusedDecoder
from common.engine.fused.ops import TorchOps
from common.engine.graphs.graphed import Capture, GraphedDecoder, GraphLimits
from common.engine.limits import choose_limits
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.model_runner import ModelRunner, TokenModel
from common.engine.profiling.costs import Costs
from common.engine.weights.load import load_model
from common.grammar.matcher import MaskFiller
from common.profile import WorkerProfile
from tests.unit.common.engine.attention.varlen_double import varlen
from tests.unit.common.engine.fused.fusing import fuse_as_stored
from tests.unit.common.engine.plain_stage import CPU
from tests.unit.common.engine.tiny_models import engine_config


@dataclass(frozen=True)
class Flashed:
    """A fused model on pages, one block of which is scratch."""

    engine: Engine
    decoder: FusedDecoder
    backend: FlashBackend
    limits: GraphLimits

    def graphed(self, capture: Capture, inputs: DeviceInputs) -> Engine:
        """Return the same engine, blocks and weights, with its decode steps captured."""
        return self.running(GraphedDecoder(self.decoder, self.limits, inputs, capture))

    def running(self, model: TokenModel) -> Engine:
        spec = self.engine.spec
        masks = MaskFiller(spec.vocab_size)
        runner = ModelRunner(model, self.engine.pool.block_size, spec.eos_token_ids, masks)
        return replace(self.engine, runner=runner)


def build_flashed(
    folder: Path,
    inputs: DeviceInputs,
    *,
    max_num_seqs: int = 20,
    num_blocks: int = 96,
    block_size: int = 16,
    dtype: StoredDtype = "float32",
    device: torch.device = CPU,
    attend: VarlenAttention = varlen,
    kv: str = "none",
) -> Flashed:
    """Build the model; `inputs` are those of steps that are not captured."""
    model, spec = load_model(folder, dtype, device)
    spec = spec if kv == "none" else spec.with_quantized_kv(kv)
    cache = KVCache(spec, num_blocks + 1, block_size, device, "pages")
    backend = FlashBackend(cache, attend)
    weights = fuse_as_stored(model)
    assert weights is not None
    decoder = FusedDecoder(weights, TorchOps(), backend, inputs.put)
    pool = BlockPool(num_blocks, block_size)
    masks = MaskFiller(spec.vocab_size)
    runner = ModelRunner(decoder, block_size, spec.eos_token_ids, masks)
    prefix = PrefixCache(pool, spec.fingerprint, is_enabled=False)
    config, costs = engine_config(), Costs(WorkerProfile())
    engine = Engine(spec, config, prefix, cache, runner, costs, choose_limits(config))
    longest = min(pool.num_blocks_for(spec.max_context_tokens), num_blocks)
    limits = GraphLimits(max_num_seqs, longest, block_size, scratch_block=num_blocks)
    return Flashed(engine, decoder, backend, limits)
