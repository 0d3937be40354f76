"""Verdicts on our kernels on this CPU: each family is tried once a process, against torch.

A family that is wrong, or that cannot be built, is never run: torch's operations take its place, slower and
right. The log says so once. Trying a family also compiles all its kernels, or loads them from disk, so that
none compiles during a request.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from common.telemetry.logs import get_logger

if TYPE_CHECKING:
    from common.engine.fused.quantize import PanelForm

_log = get_logger()


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Shape that attention kernels are compiled for."""

    dtype: str
    block_size: int
    head_dim: int
    group: int  # query heads that share a KV head
    value_dim: int | None = None  # where a value has other channels than a key
    has_extras: bool = False  # sinks, soft caps, chunks, ALiBi; see AttentionForm
    kv_quantization: str = "none"
    is_latent: bool = False  # blocks hold a value as the first channels of its key


class WrongNumbersError(Exception):
    """Raised for a kernel that gives other numbers than torch."""


def attention_verdict(shape: AttentionShape) -> str | None:
    """Return None where attention and copies of KV are right, else the reason to leave them to torch."""
    from common.engine.kernel_checks import attention

    kv = "" if shape.kv_quantization == "none" else f" with {shape.kv_quantization} KV"
    return _judge(f"attention in {shape.dtype}{kv}", lambda: attention.check(shape))


def products_verdict(
    dtype: str, activation: str | None, quantization: "str | PanelForm" = "none"
) -> str | None:
    """Return the same for matrix products, norms and the rest of a fused layer.

    With a `quantization` the products' weights are small integers: rounded to a format, or held in a form.
    Without an `activation` no product is gated.
    """
    from common.engine.kernel_checks import products

    what = "products" if quantization == "none" else f"{quantization}-products"
    return _judge(f"{what} in {dtype}", lambda: products.check(dtype, activation, quantization))


def sampling_verdict() -> str | None:
    """Return the same for sampling and grammar masks."""
    from common.engine.kernel_checks import sampling

    return _judge("sampling", sampling.check)


def compile_truncation() -> None:
    """Compile the largest part of sampling; `sampling_verdict` says if it is right."""
    from common.engine.cpu.linking import KernelError
    from common.engine.cpu.target import host_target
    from common.engine.kernel_checks import sampling

    if host_target().has_kernels:
        with suppress(KernelError, WrongNumbersError):
            sampling.check_truncation()


trusted_attention = cache(attention_verdict)
trusted_products = cache(products_verdict)
trusted_sampling = cache(sampling_verdict)


def _judge(name: str, check: Callable[[], None]) -> str | None:
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu.linking import KernelError
    from common.engine.cpu.target import host_target

    target = host_target()
    try:
        if not target.has_kernels:
            raise KernelError(f"{target.cpu} has no AVX2 with FMA and F16C")
        check()
    except (KernelError, WrongNumbersError) as error:
        _log.warning("kernels_left_out", kernels=name, reason=str(error), instead="torch")
        return str(error)
    return None
