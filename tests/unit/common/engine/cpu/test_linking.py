"""A kernel that asks for a symbol which nothing defines is an error in Python, and not the process's end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from common.engine.cpu import jit
from common.engine.cpu.jit import kernel, part
from common.engine.cpu.kernel_cache import tally
from common.engine.cpu.linking import KernelError, guard, undefined_symbols

MISSING = "pdserve_nobody_defines_this"
DOUBLE = ir.FunctionType(ir.DoubleType(), [ir.DoubleType()])


@intrinsic
def lost(ctx, x):  # type: ignore[no-untyped-def]
    """Return x by a function that does not exist."""

    def generate(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, DOUBLE, MISSING)
        return builder.call(function, args)

    return types.float64(types.float64), generate


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder for this test's kernels; none of their locks may be left."""
    folder = tmp_path / "kernels"
    monkeypatch.setattr(jit, "kernels_dir", lambda: folder)
    yield folder
    assert not list(folder.glob("*.lock"))


def object_file(text: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    content: bytes = machine.emit_object(llvm.parse_assembly(text))
    return content


def test_an_object_file_says_what_it_asks_others_for() -> None:
    content = object_file("""
        declare double @elsewhere(double)
        declare double @unused(double)
        define double @here(double %x) {
          %y = call double @elsewhere(double %x)
          %z = call double @sin(double %y)
          ret double %z
        }
        declare double @sin(double)
    """)
    assert sorted(undefined_symbols(content)) == ["elsewhere", "sin"]
    assert undefined_symbols(object_file("define void @alone() { ret void }")) == []


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(60), b"MZ"])
def test_what_is_no_64_bit_elf_file_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no 64-bit ELF file"):
        undefined_symbols(content)


def test_what_is_known_is_linked_and_what_is_not_is_told_each_time() -> None:
    content = object_file("""
        declare double @sin(double)
        declare double @pdserve_also_nowhere(double)
        define double @calls(double %x) {
          %y = call double @pdserve_also_nowhere(double %x)
          %z = call double @sin(double %y)
          ret double %z
        }
    """)
    for _ in range(2):
        guard().admit(content)
        assert guard().take_missing() == ["pdserve_also_nowhere"]
        assert guard().take_missing() == []


def refused(run: Any, name: str) -> None:
    """Require that each call names kernel and symbol, and computes nothing."""
    numbers = np.ones(1)
    for _ in range(3):
        with pytest.raises(KernelError, match=f"{name}.* needs {MISSING}, which nothing defines"):
            run(numbers)
    assert numbers[0] == 1


def test_a_kernel_with_an_unknown_symbol_is_refused_at_every_call(kernels: Path) -> None:
    @kernel()
    def direct(x):  # type: ignore[no-untyped-def]
        x[0] = lost(x[0])

    before = tally().compiled
    refused(direct, "direct")
    assert tally().compiled == before + 3
    assert not list(kernels.glob("*.kernel"))  # and none is kept for others to fall over


def test_a_kernel_is_refused_for_a_part_with_an_unknown_symbol() -> None:
    @part()
    def lost_part(x):  # type: ignore[no-untyped-def]
        x[0] = lost(x[0])

    @kernel()
    def whole(x):  # type: ignore[no-untyped-def]
        lost_part(x)
        x[0] += 1

    refused(whole, "whole")


def test_a_kernel_that_contains_a_refused_one_is_refused_and_waits_for_nobody(
    kernels: Path,
) -> None:
    """The outer kernel's lock goes with the failure: else its next call and other processes would wait."""

    @kernel()
    def inner(x):  # type: ignore[no-untyped-def]
        x[0] = lost(x[0])

    @kernel()
    def outer(x):  # type: ignore[no-untyped-def]
        inner(x)
        x[0] += 1

    with pytest.raises(KernelError, match="inner"):
        outer(np.ones(1))
    assert not list(kernels.glob("*.lock"))
    refused(outer, "inner")
    refused(inner, "inner")


def test_a_kernel_from_disk_is_no_part_of_another() -> None:
    """Its file has machine code alone, which cannot be linked into code of LLVM's."""

    def make() -> Any:
        @kernel(variant="one")
        def add_one(x):  # type: ignore[no-untyped-def]
            x[0] += 1

        return add_one

    numbers, loaded = np.zeros(1), tally().loaded
    make()(numbers)
    from_disk = make()
    from_disk(numbers)
    assert (numbers[0], tally().loaded) == (2, loaded + 1)

    @kernel()
    def outer(x):  # type: ignore[no-untyped-def]
        from_disk(x)

    with pytest.raises(Exception, match="only parts can be linked"):
        outer(numbers)


def test_a_kernel_whose_types_do_not_fit_leaves_no_lock(kernels: Path) -> None:
    @kernel()
    def wrong(x):  # type: ignore[no-untyped-def]
        x.no_such_attribute()

    for _ in range(2):
        with pytest.raises(Exception, match="no_such_attribute"):
            wrong(np.ones(1))
        assert not list(kernels.glob("*.lock"))


def test_others_compile_and_run_on() -> None:
    @kernel()
    def bad(x):  # type: ignore[no-untyped-def]
        x[0] = lost(x[0])

    @kernel()
    def good(x):  # type: ignore[no-untyped-def]
        x[0] += np.sin(x[0])  # a symbol of another library

    refused(bad, "bad")
    numbers = np.ones(1)
    good(numbers)
    assert numbers[0] == 1 + np.sin(1.0)
