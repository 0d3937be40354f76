"""Checkpoints of compressed-tensors, which LLM Compressor writes: integers, FP8 and 4-bit floats.

Of a product with K inputs and N outputs, `weight_packed` holds int32 [N, K * bits / 32], or `weight` int8 or
FP8 [N, K]. `weight_scale` is [N, G], and so is `weight_zero_point`, packed along N beside packed weights.
A `weight_packed` of uint8 holds 4-bit floats: NVFP4 with a `weight_global_scale`, else MXFP4 (float4.py).
Activations are not quantized here, whatever the settings say of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from common.engine.weights.prequantized.compressed_integers import packed, whole
from common.engine.weights.prequantized.float4 import mxfp4, nvfp4
from common.engine.weights.prequantized.float8 import Float8
from common.engine.weights.prequantized.packed import PackedWeight, Read
from common.engine.weights.prequantized.parts import Beside
from common.engine.weights.prequantized.settings import Fields, Settings
from common.engine.weights.stored import StoredTensor

_PACKED = ".weight_packed"
_GLOBAL = "_global_scale"
_MIXED = "mixed-precision"
_FLOATS4 = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")
_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    _MIXED,
    *_FLOATS4,
)
_KINDS = (("int", 4), ("int", 8), ("float", 8))


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """Format of compressed-tensors; each weight's own tensors say its bits and groups."""

    told: str
    floats: Float8
    endings: tuple[str, ...] = (
        *(_PACKED, ".weight_shape", ".weight_g_idx"),
        *(".weight_scale", ".weight_zero_point", ".weight_global_scale"),
    )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the settings. Raises SetupError for a kind that is not known."""
        settings.needs("format", *_FORMATS)
        sparsity = settings.fields.get("sparsity_config")
        if isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense"):
            raise settings.refusal(
                f"sparsity_config of format {sparsity['format']!r} is not supported"
            )
        if settings.fields.get("transform_config"):
            raise settings.refusal("transform_config turns activations, which is not supported")
        groups = settings.fields.get("config_groups")
        blocks = {_block(each, settings) for each in _weights(groups, settings)} - {None}
        if len(blocks) > 1:
            raise settings.refusal("config_groups have blocks of several shapes")
        told = f"compressed-tensors {settings.fields['format']}"
        return cls(told, Float8(told, blocks.pop() if blocks else None))

    def find(self, tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[PackedWeight]:
        """Yield the weights in this format."""
        yield from self.floats.find(tensors, read)
        for main, stored in tensors.items():
            if main.endswith(_PACKED) and stored.dtype == "U8":
                yield _float4(f"{main.removesuffix(_PACKED)}.weight", Beside(tensors, main))
            elif main.endswith(_PACKED):
                yield packed(main.removesuffix(_PACKED), Beside(tensors, main), read)
            elif main.endswith(".weight") and stored.dtype == "I8":
                yield whole(main, Beside(tensors, main))


def _float4(name: str, beside: Beside) -> PackedWeight:
    if beside.has(f"{name}{_GLOBAL}"):
        return nvfp4(name, beside, _GLOBAL, "divides")
    return mxfp4(name, beside)


def _weights(groups: object, settings: Settings) -> Iterator[Fields]:
    """Yield what each group says of its weights. Raises SetupError for a kind that is not known."""
    if not isinstance(groups, dict) or not groups:
        raise settings.refusal("config_groups names no group")
    may_be_float4 = settings.fields["format"] in (_MIXED, *_FLOATS4)
    kinds = (*_KINDS, ("float", 4)) if may_be_float4 else _KINDS
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            continue  # its activations alone are quantized
        kind = (weights.get("type", "int"), weights.get("num_bits"))
        if kind not in kinds:
            raise settings.refusal(f"{name} has weights of {kind[0]} with {kind[1]} bits")
        yield weights


def _block(weights: Fields, settings: Settings) -> tuple[int, int] | None:
    structure = weights.get("block_structure")
    if structure is None:
        return None
    if not isinstance(structure, list) or [type(size) for size in structure] != [int, int]:
        raise settings.refusal(f"block_structure is {structure!r}")
    return structure[0], structure[1]
