"""Tape: tasks that kernels note down instead of running them, to be run again and again in native code.

Calling a kernel takes Python 3 us, as long as one with a single row runs. A step of a small model makes 270
to 420 calls of kernels, whose arrays lie where they lay the step before.

A note is its size in bytes, the address of the task's function, and what the task is told. It holds addresses
of memory but owns none. Notes stand one behind the other.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu.emit import I32, Builder, Context, Values
from common.engine.cpu.tasks import (
    BYTES,
    HAS_FAILED,
    HEAD,
    I64,
    NUM_RUNS,
    TASK,
    Task,
    call_native,
    num_threads,
    run_task,
)

_SYMBOL = "pdserve_tape"
_TAPE = ir.LiteralStructType([I64, I64, I64])
_NOTE = ir.LiteralStructType([I64, TASK.as_pointer(), ir.LiteralStructType(HEAD)])
_SIZE, _FUNCTION, _TOLD = range(3)
_ROOM = 2**16  # bytes of one call's notes


class _Tape(ctypes.Structure):
    """Place to write: the thread that records, or 0, and the addresses of the next note and of the end."""

    _fields_ = (("thread", ctypes.c_uint64), ("next", ctypes.c_uint64), ("end", ctypes.c_uint64))


_tape = _Tape()
_room = ctypes.create_string_buffer(_ROOM)
_lock = threading.Lock()


def name_tape() -> None:
    """Make the tape known to LLVM: kernels look at it."""
    llvm.add_symbol(_SYMBOL, ctypes.addressof(_tape))


def record(function: Callable[..., object], args: Sequence[object]) -> bytes:
    """Return the notes of a kernel's call. It must do all its work in tasks, on memory of its callers."""
    with _lock:
        begin = ctypes.addressof(_room)
        _tape.next, _tape.end = begin, begin + _ROOM
        _tape.thread = threading.get_ident()
        try:
            function(*args)
        finally:
            _tape.thread = 0
        return ctypes.string_at(begin, _tape.next - begin)


def run_or_record(
    context: Context, builder: Builder, task: Task, count: Any, values: Sequence[Any]
) -> Any:
    """Run a task over range(count), or note it down; return true if that has failed."""
    note = ir.LiteralStructType([I64, TASK.as_pointer(), task.told])
    size = I64(context.get_abi_sizeof(note))
    with builder.goto_entry_block():  # cgutils would fill it with zeros, field by field
        local = builder.alloca(note)
    thread, at, end = _tape_fields(builder)
    this_thread = call_native(builder, "pthread_self", I64)
    is_recording = builder.icmp_unsigned("==", builder.load(thread), this_thread)
    behind = builder.add(builder.load(at), size)
    has_room = builder.icmp_unsigned("<=", behind, builder.load(end))
    is_noted = builder.and_(is_recording, has_room)
    place = builder.inttoptr(builder.load(at), note.as_pointer())
    place = builder.select(is_noted, place, local)
    threads = num_threads(builder)
    num_runs = builder.select(builder.icmp_signed("<", count, threads), count, threads)
    told = cgutils.gep_inbounds(builder, place, 0, _TOLD)
    for i, value in enumerate([count, num_runs, I32(0), *values]):
        builder.store(value, cgutils.gep_inbounds(builder, told, 0, i))
    builder.store(size, cgutils.gep_inbounds(builder, place, 0, _SIZE))
    builder.store(task.function, cgutils.gep_inbounds(builder, place, 0, _FUNCTION))
    with builder.if_else(is_recording, likely=False) as (recording, running):
        with recording, builder.if_then(is_noted):
            builder.store(behind, at)
        with running:
            run_task(builder, task.function, builder.bitcast(told, BYTES), num_runs)
    failed = builder.load(cgutils.gep_inbounds(builder, told, 0, HAS_FAILED))
    is_lost = builder.and_(is_recording, builder.not_(has_room))
    return builder.or_(is_lost, builder.icmp_signed("!=", failed, I32(0)))


@intrinsic
def run_notes(ctx, first, end):  # type: ignore[no-untyped-def]
    """Run the tasks noted between two addresses, each behind the one before. Returns true if one failed."""

    def generate(context: Context, builder: Builder, sig: Signature, args: Values) -> Any:
        with each_note(builder, *args) as note:
            function, data, num_runs, _ = note_parts(builder, note)
            run_task(builder, builder.load(function), data, builder.load(num_runs))
        return take_failures(builder, *args)

    return types.boolean(types.intp, types.intp), generate


@contextmanager
def each_note(builder: Builder, first: Any, end: Any) -> Iterator[Any]:
    """Loop over notes; what their tasks are told is seen up to its head."""
    at = cgutils.alloca_once_value(builder, first)
    test, body, done = (builder.append_basic_block(name) for name in ("test", "body", "done"))
    builder.branch(test)
    builder.position_at_end(test)
    builder.cbranch(builder.icmp_unsigned("<", builder.load(at), end), body, done)
    builder.position_at_end(body)
    note = builder.inttoptr(builder.load(at), _NOTE.as_pointer())
    yield note
    size = builder.load(cgutils.gep_inbounds(builder, note, 0, _SIZE))
    builder.store(builder.add(builder.load(at), size), at)
    builder.branch(test)
    builder.position_at_end(done)


class NoteParts(NamedTuple):
    """Parts of a note: `data` is what its task is told, the others are pointers to what their names say."""

    function: Any
    data: Any
    num_runs: Any
    has_failed: Any


def note_parts(builder: Builder, note: Any) -> NoteParts:
    """Find the parts of a note."""
    function, told = (cgutils.gep_inbounds(builder, note, 0, i) for i in (_FUNCTION, _TOLD))
    num_runs, failed = (cgutils.gep_inbounds(builder, told, 0, i) for i in (NUM_RUNS, HAS_FAILED))
    return NoteParts(function, builder.bitcast(told, BYTES), num_runs, failed)


def take_failures(builder: Builder, first: Any, end: Any) -> Any:
    """Return true if a task between two addresses has failed, and forget it."""
    failed = cgutils.alloca_once_value(builder, I32(0))
    with each_note(builder, first, end) as note:
        flag = note_parts(builder, note).has_failed
        builder.store(builder.or_(builder.load(failed), builder.load(flag)), failed)
        builder.store(I32(0), flag)
    return builder.icmp_signed("!=", builder.load(failed), I32(0))


def _tape_fields(builder: Builder) -> tuple[Any, Any, Any]:
    tape = builder.module.globals.get(_SYMBOL)
    if tape is None:
        tape = ir.GlobalVariable(builder.module, _TAPE, _SYMBOL)
    thread, at, end = (cgutils.gep_inbounds(builder, tape, 0, i) for i in range(3))
    return thread, at, end
