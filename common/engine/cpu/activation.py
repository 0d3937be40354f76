"""Gated activations as vector code: a compiler does not vectorise exp by itself."""

from typing import Any

from common.engine.cpu import emit
from common.engine.cpu.emit import Builder

SILU, GELU_TANH = 0, 1
_HIGHEST = 88.0  # e**88 is the last below float32's infinity


def gated(builder: Builder, number: Any, up: Any, is_gelu: bool) -> Any:
    """Compute act(number) * up on vectors of float32."""
    slope = _gelu_slope(builder, number) if is_gelu else number
    return builder.fmul(builder.fmul(number, _sigmoid(builder, slope)), up)


def _sigmoid(builder: Builder, x: Any) -> Any:
    minus = builder.fsub(emit.constant(0.0), x)
    power = emit.exp(builder, minus)
    # an ordered comparison, so that NaN stays NaN
    is_huge = builder.fcmp_ordered(">", minus, emit.constant(_HIGHEST))
    sigmoid = builder.fdiv(emit.constant(1.0), builder.fadd(emit.constant(1.0), power))
    return builder.select(is_huge, emit.constant(0.0), sigmoid)


def _gelu_slope(builder: Builder, x: Any) -> Any:
    # gelu's tanh form is x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))
    square = builder.fmul(x, x)
    factor = builder.fadd(emit.constant(1.5957691), builder.fmul(emit.constant(0.0713548), square))
    return builder.fmul(x, factor)
