"""Check of a fused layer's kernels against TorchOps, on small matrices of the dtypes of models."""

from typing import cast

import torch

from common.engine.cpu.scale_blocks import BLOCK
from common.engine.fused.cpu_ops import CpuOps
from common.engine.fused.ops import FusedOps, TorchOps
from common.engine.fused.panels import Panels
from common.engine.fused.quantize import GROUP, Format, PanelForm
from common.engine.fused.quantized_panels import QuantizedPanels
from common.engine.fused.rounded import Rounded
from common.engine.fused.weights import Activation, AsStored, Layout, Linear
from common.engine.kernel_checks.close import normal, require_close
from common.engine.memory.kv_cache import DTYPES

# rows: of every tile, and a last panel that is cut
_TOKENS, _DEPTH, _INNER, _HEADS, _HEAD_DIM = 31, BLOCK, 72, 3, 16


def check(dtype: str, activation: str | None, quantization: str | PanelForm = "none") -> None:
    """Compile or load all kernels, and compare. Raises WrongNumbersError, KernelError."""
    kind = DTYPES[dtype]
    ops = CpuOps(is_quantized=quantization != "none")
    gate = cast(Activation | None, activation)
    packed, stored = _layouts(quantization, _group(quantization))
    ours = _run(ops, packed, kind, gate)
    plain = _run(TorchOps(), stored, torch.float32, gate, kind)
    for name, tensor in ours.items():
        require_close(name, tensor, plain[name], kind)


def _group(quantization: str | PanelForm) -> int:
    """Return the size of groups that a form has at least: Q6_K's alone are smaller than others."""
    is_fine = quantization == PanelForm(8, has_offsets=False, scales="int8")
    return GROUP // 2 if is_fine else GROUP


def _layouts(quantization: str | PanelForm, group: int) -> tuple[Layout, Layout]:
    """Return the layout that our kernels read, and one of the same numbers for torch."""
    if quantization == "none":
        return Panels(), AsStored()
    if isinstance(quantization, PanelForm):
        forms = quantization, quantization, group
        return QuantizedPanels(*forms), Rounded(*forms)
    form = cast(Format, quantization)
    return QuantizedPanels(form), Rounded(form)


def _run(
    ops: FusedOps,
    layout: Layout,
    dtype: torch.dtype,
    activation: Activation | None,
    rounded_to: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Return the result of each operation; the numbers going in are rounded to `rounded_to`."""
    stored = rounded_to or dtype

    def numbers(*shape: int, seed: int) -> torch.Tensor:
        return (normal(*shape, seed=seed) / 8).to(stored).to(dtype)

    inputs = ops.input_dtype(dtype)
    rows, weight = numbers(_TOKENS, _DEPTH, seed=1), numbers(_INNER, _DEPTH, seed=2)
    bias = numbers(2 * _INNER, seed=3)
    gate_up = layout.gated(Linear(numbers(2 * _INNER, _DEPTH, seed=4), bias))
    product, head = layout.linear(Linear(weight, None)), layout.head(Linear(weight, None))
    found = {
        "a product": torch.empty(_TOKENS, _INNER, dtype=dtype),
        "a product in float32": torch.empty(_TOKENS, _INNER),
        "a product for the residual": torch.empty(_TOKENS, _INNER, dtype=inputs),
        "a product of one row": torch.empty(1, _INNER, dtype=inputs),
        "a gated product": torch.zeros(_TOKENS, _INNER, dtype=inputs),
        "an embedding": torch.empty(5, _DEPTH),
        "a product of the head": torch.empty(_TOKENS, _INNER),
    }
    kept, attended = rows.to(inputs), rows
    ops.linear(kept, product, found["a product"])
    ops.linear(kept, product, found["a product in float32"])
    ops.linear(attended, product, found["a product for the residual"])
    ops.linear(kept[:1], product, found["a product of one row"])
    if activation is not None:
        products = torch.empty(_TOKENS, 2 * _INNER, dtype=inputs)
        ops.gated(kept, gate_up, activation, products, found["a gated product"])
    ops.embed(torch.tensor([0, 70, 8, 71, 8]), head, found["an embedding"])
    ops.linear(kept, head, found["a product of the head"])
    return found | _between_products(ops, dtype, stored, inputs)


def _between_products(
    ops: FusedOps, dtype: torch.dtype, stored: torch.dtype, inputs: torch.dtype
) -> dict[str, torch.Tensor]:
    weight, delta = normal(_DEPTH, seed=5), normal(_TOKENS, _DEPTH, seed=6).to(stored).to(inputs)
    residual, normed = normal(_TOKENS, _DEPTH, seed=7), torch.empty(_TOKENS, _DEPTH, dtype=inputs)
    first = torch.empty_like(normed)
    ops.norm(residual, weight, 1e-5, first)
    ops.add_norm(residual, delta, weight, 1e-5, normed)
    ops.norm(delta, weight, 1e-5, delta)
    # columns of a wider tensor, as queries and keys are
    heads = normal(_TOKENS, _HEADS, _HEAD_DIM, seed=8).to(stored).to(dtype)
    angles = normal(_TOKENS, _HEAD_DIM // 2, seed=9).repeat(1, 2)
    ops.norm_heads(heads, 0, 2, weight[:_HEAD_DIM], 1e-5)
    ops.rotate(heads, 2, angles.cos(), angles.sin())
    return {"a norm": first, "a sum's norm": normed, "a norm in place": delta, "heads": heads}
