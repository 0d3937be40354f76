"""A Llama with random weights, created on its device, and an engine for it."""

import gc

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.gpu.lower_bounds import kv_bytes, weight_bytes
from benchmarks.gpu.scale import Scale, Shape
from common.config import EngineConfig
from common.engine.attention.flash import PAGE
from common.engine.attention.interface import ATTENTION_NAME, register
from common.engine.build import Engine, assemble_engine
from common.engine.model_spec import ModelSpec
from pdserve.errors import SetupError

_MAX_CONTEXT = 131_072
_ROPE = {"rope_type": "default", "rope_theta": 500_000.0}
_CPU_BLOCK = 16
_SPARE_BLOCKS = 1.05  # for the watermark and the profiling run
_MOST_BATCH_TOKENS = 8192  # the peer's default too
_ACTIVATIONS_BYTES = 6 * 2**30
_MERGED = 1.7  # the weights, and the merged copies of the fused pass


def random_model(shape: Shape, device: torch.device) -> tuple[torch.nn.Module, ModelSpec]:
    """Return the model in bfloat16 on `device`, initialised as before training, and its spec."""
    register()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=_MAX_CONTEXT,
        rope_parameters=_ROPE,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME
        )
    spec = ModelSpec(
        num_layers=shape.layers,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        max_context_tokens=_MAX_CONTEXT,
        eos_token_ids=frozenset(),
        dtype="bfloat16",
        fingerprint="random",
    )
    return model.eval().requires_grad_(False), spec


def engine_config(scale: Scale, device: torch.device, **settings: object) -> EngineConfig:
    """Return a config with room for the largest batch, the longest chunk and all requests."""
    block_size = PAGE if device.type == "cuda" else _CPU_BLOCK
    most_tokens = max(*scale.chunks, scale.requests.most_tokens)
    fields: dict[str, object] = {
        "dtype": "bfloat16",
        "device": device.type,
        "block_size": block_size,
        "kv_cache_gib": _num_blocks(scale, block_size) * kv_bytes(scale.shape, block_size) / 2**30,
        "max_batch_tokens": max(_MOST_BATCH_TOKENS, most_tokens),
        "max_num_seqs": max(*scale.batch_sizes, scale.requests.count),
    }
    return EngineConfig.model_validate(fields | settings)


def make_engine(
    model: torch.nn.Module, spec: ModelSpec, config: EngineConfig, device: torch.device
) -> Engine:
    """Return the engine that a worker would have. Raises SetupError if its self-check fails."""
    if device.type == "cpu":
        # numba takes 0.3 s to import, and CUDA never needs it
        from common.engine.cpu.threads import set_num_threads

        set_num_threads(1)
    return assemble_engine(model, spec, config, device)


def free_memory() -> None:
    """Return unused cached memory to the device."""
    gc.collect()
    torch.cuda.empty_cache()


def check_memory(scale: Scale, device: torch.device) -> None:
    """Raise SetupError if the device has too little free memory."""
    if device.type != "cuda":
        return
    free_bytes, _ = torch.cuda.mem_get_info(device)
    kv_needed = kv_bytes(scale.shape, _num_blocks(scale, PAGE) * PAGE)
    needed = int(_MERGED * weight_bytes(scale.shape)) + kv_needed + _ACTIVATIONS_BYTES
    if free_bytes < needed:
        raise SetupError(
            f"the GPU has {free_bytes / 2**30:.0f} GiB free, this needs {needed / 2**30:.0f}",
            "end what else runs there, take a larger one, or add --scale tiny to try the command",
        )


def _num_blocks(scale: Scale, block_size: int) -> int:
    def blocks(tokens: int) -> int:
        return -(-tokens // block_size)

    decoding = max(scale.batch_sizes) * blocks(scale.context)
    requested = scale.requests.count * blocks(scale.requests.most_tokens)
    return int(_SPARE_BLOCKS * max(decoding, requested, blocks(max(scale.chunks)))) + 2
