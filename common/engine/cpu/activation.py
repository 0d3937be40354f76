"""Gated activations as vector code: exp is what a compiler does not vectorise by itself."""

from typing import Any

from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import emit
from common.engine.cpu.emit import Builder, Context, Values

SILU, GELU_TANH = 0, 1
_HIGHEST = 88.0  # e**88 is the last below float32's infinity


@intrinsic(prefer_literal=True)
def gate(ctx, x, gate_at, up_at, out, out_at, kind):  # type: ignore[no-untyped-def]
    """out <- act(x[gate_at:]) * x[up_at:] for LANES numbers; `kind` is SILU or GELU_TANH."""
    is_gelu = emit.literal(kind) == GELU_TANH
    sig = types.void(x, types.intp, types.intp, out, types.intp, kind)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        data, out_data = (emit.array_data(context, builder, sig, args, i) for i in (0, 3))
        number = emit.load(builder, data, args[1], sig.args[0])
        up = emit.load(builder, data, args[2], sig.args[0])
        active = gated(builder, number, up, is_gelu)
        emit.store_as(builder, active, out_data, args[4], sig.args[3])
        return context.get_dummy_value()

    return sig, generate


def gated(builder: Builder, number: Any, up: Any, is_gelu: bool) -> Any:
    """act(number) * up, vectors of float32."""
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
