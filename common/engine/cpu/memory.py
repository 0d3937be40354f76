"""Arrays of kernels' own, as numba intrinsics: numba's functions for them take a second each to compile."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from common.engine.cpu import emit
from common.engine.cpu.emit import Builder, Context, Values


@intrinsic(prefer_literal=True)
def scratch(ctx, dtype, count):  # type: ignore[no-untyped-def]
    """Return an array [count] on the stack, filled with nothing; it ends with the function that asks."""
    numbers = emit.literal(count)
    array = types.Array(dtype.dtype, 1, "C")

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        kind = context.get_data_type(dtype.dtype)
        with builder.goto_entry_block():
            data = builder.alloca(kind, size=emit.index(numbers))
        return _array(context, builder, array, data, emit.index(numbers))

    return array(dtype, count), generate


@intrinsic
def flat(ctx, array):  # type: ignore[no-untyped-def]
    """Return an array's numbers, which lie side by side, as one row. It must not outlive the array."""
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypeError("numbers must lie side by side")
    row = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        given = context.make_array(sig.args[0])(context, builder, args[0])
        return _array(context, builder, row, given.data, given.nitems)

    return row(array), generate


@intrinsic
def bits_of(ctx, number):  # type: ignore[no-untyped-def]
    """Return the bits of a float32 as an int32."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        return builder.bitcast(args[0], emit.I32)

    return types.int32(types.float32), generate


@intrinsic
def from_bits(ctx, bits):  # type: ignore[no-untyped-def]
    """Return the float32 that has the bits of an int32."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        return builder.bitcast(args[0], emit.F32)

    return types.float32(types.int32), generate


def _array(context: Context, builder: Builder, kind: types.Array, data: Any, count: Any) -> Any:
    """Make an array that counts no references: whoever gave the memory keeps it."""
    array = context.make_array(kind)(context, builder)
    item_bytes = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    size = ir.Constant(ir.IntType(64), item_bytes)
    populate_array(array, data, shape=[count], strides=[size], itemsize=size, meminfo=None)
    return array._getvalue()
