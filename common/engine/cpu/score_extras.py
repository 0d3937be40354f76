"""Extras of attention scores in the CPU's kernel: chunks, soft caps, sinks, ALiBi.

A plain kernel carries a window, one number, from function to function. A kernel with extras carries a tuple
in its place, and so the same code makes both; the functions here are what differs.

- For a call: (window, chunk, cap, sinks [heads], slopes [heads]). A cap of 0 and empty arrays mean none.
- For the rows of a work item: (windows [rows], cap, slopes [rows]). What a chunk leaves is a row's window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core.types.containers import BaseTuple
from numba.core.typing.templates import Signature

from common.engine.cpu import emit
from common.engine.cpu.emit import LANES, Builder, Context, Values
from common.engine.cpu.jit import part

Jitable = Callable[..., Any]


def row_functions(group: int, *, has_extras: bool) -> tuple[Jitable, Jitable]:
    """Return the functions that make a call's form that of rows, and that look up a row's window."""
    return (_begin_extras(group), _window_of_row) if has_extras else (_keep_window, _same_window)


def first_function(*, has_extras: bool) -> Jitable:
    """Return the function (form, context) that finds the first position which the last one sees."""
    return _first_with_extras if has_extras else _first_of_window


@part()
def _first_of_window(form, context):  # type: ignore[no-untyped-def]
    return max(context - form, 0)


@part()
def _first_with_extras(form, context):  # type: ignore[no-untyped-def]
    return context - _window_at(form[0], form[1], context)


@part()
def _window_at(window, chunk, context):  # type: ignore[no-untyped-def]
    return min(window, (context - 1) % chunk + 1)


@part()
def _keep_window(form, head, limits, padded, peak, norm):  # type: ignore[no-untyped-def]
    return form


@part()
def _same_window(form, row):  # type: ignore[no-untyped-def]
    return form


@part()
def _window_of_row(form, row):  # type: ignore[no-untyped-def]
    return form[0][row]


def _begin_extras(group: int) -> Jitable:
    @part(variant=f"{group}")
    def begin_extras(form, head, limits, padded, peak, norm):  # type: ignore[no-untyped-def]
        # limits, peak [padded], norm [padded, LANES] are set up; a sink is a score that was seen before
        window, chunk, cap, sinks, slopes = form
        windows, row_slopes = np.empty(padded, np.int64), np.empty(padded, np.float32)
        for r in range(padded):
            query_head = head * group + r % group
            windows[r] = _window_at(window, chunk, limits[r])
            row_slopes[r] = slopes[query_head] if slopes.shape[0] > 0 else np.float32(0)
            if sinks.shape[0] > 0:
                peak[r] = sinks[query_head]
                norm[r * LANES] = 1
        return windows, cap, row_slopes

    return begin_extras


@dataclass(frozen=True, slots=True)
class RowForm:
    """Form of one row in the making of a kernel: its window, and how its scores change."""

    window: Any
    cap: Any = None
    slope: Any = None

    def change(self, builder: Builder, scores: list[Any], end: Any) -> None:
        """Change a row's scores, variables of LANES positions; the row's own position is `end` - 1."""
        if self.cap is None:
            return
        is_capped = builder.fcmp_ordered(">", self.cap, ir.Constant(emit.F32, 0.0))
        with builder.if_then(is_capped):
            for score in scores:
                builder.store(_cap(builder, builder.load(score), self.cap), score)
        behind = builder.sitofp(builder.sub(emit.index(1), end), emit.F32)
        behind, slope = (emit.splat(builder, x) for x in (behind, self.slope))
        for v, score in enumerate(scores):
            lanes = ir.Constant(emit.VECTOR, [float(v * LANES + i) for i in range(LANES)])
            emit.add_product(builder, score, slope, builder.fadd(lanes, behind))


def row_form(
    context: Context, builder: Builder, sig: Signature, args: Values, i: int, row: Any
) -> RowForm:
    """Return the form of a row, of which the i-th argument is a window or a tuple for all rows."""
    kind = sig.args[i]
    if not isinstance(kind, BaseTuple):
        return RowForm(args[i])
    windows, cap, slopes = (builder.extract_value(args[i], k) for k in range(3))
    window, slope = (
        builder.load(builder.gep(context.make_array(array)(context, builder, value).data, [row]))
        for array, value in ((kind[0], windows), (kind[2], slopes))
    )
    return RowForm(window, cap, slope)


def _cap(builder: Builder, score: Any, cap: Any) -> Any:
    """Compute cap * tanh(score / cap); NaN stays NaN."""
    one, most = emit.constant(1.0), emit.splat(builder, cap)
    ratio = builder.fdiv(score, most)
    size = emit.call(builder, "llvm.fabs", [ratio])
    fall = emit.exp(builder, builder.fmul(size, emit.constant(-2.0)))
    tanh = builder.fdiv(builder.fsub(one, fall), builder.fadd(one, fall))
    return builder.fmul(most, emit.call(builder, "llvm.copysign", [tanh, ratio]))
