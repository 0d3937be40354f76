"""Shapes of a model that the CPU's attention kernels are compiled for, and the storage that follows."""

import torch

from common.config import EngineConfig
from common.engine.attention.flash import PAGE
from common.engine.kernel_checks.verdicts import AttentionShape, trusted_attention
from common.engine.memory.kv_cache import Storage
from common.engine.model_spec import ModelSpec
from common.kv_transfer.layout import LatentShape

_BLOCK_SIZE = {"cpu": 16, "cuda": PAGE}


def block_size_of(config: EngineConfig, device: torch.device) -> int:
    """Return the positions of a block: those that are set, else what suits the device."""
    return config.block_size or _BLOCK_SIZE[device.type]


def attention_shapes(
    spec: ModelSpec, config: EngineConfig, device: torch.device
) -> list[AttentionShape]:
    """Return the shapes to compile the CPU's attention kernels for; none where they are not used."""
    is_used = config.attention_backend in ("auto", "cpu") and bool(spec.kv_layers)
    if device.type != "cpu" or not is_used or not spec.num_heads:
        return []
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.attention_kernel import can_compile_kernel

    size = block_size_of(config, device)
    shapes = dict(zip(spec.kv_shapes, spec.stored_kv_shapes, strict=True))
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
            kv_quantization=spec.kv_quantization,
            is_latent=isinstance(stored, LatentShape),
        )
        for (heads, key, value), stored in shapes.items()
    ]


def storage_of(spec: ModelSpec, config: EngineConfig, device: torch.device) -> Storage:
    """Return "packed" where the CPU's attention kernels run, else "pages"."""
    shapes = attention_shapes(spec, config, device)
    are_right = bool(shapes) and all(trusted_attention(shape) is None for shape in shapes)
    return "packed" if are_right else "pages"
