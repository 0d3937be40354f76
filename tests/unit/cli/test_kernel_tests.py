"""Kernel tests of the doctor in child processes: their reports, and their ends."""

import pytest

import cli.kernel_tests
from cli.kernel_tests import ChildError, ask, check_kernels
from common.engine.cpu.target import host_target
from common.engine.kernel_checks import __main__ as kernel_checks
from common.engine.kernel_checks.reports import FamilyReport
from tests.unit.cli.conftest import Run, UseChild

REAL_CHILD = cli.kernel_tests._CHILD
ON_PRODUCTS = 'if (family, dtype) == ("products", "bfloat16"): '
OLD_CPU = {
    "cpu": "nehalem",
    "level": "baseline",
    "dtype": "float32",
    "dtype_reason": "the fastest on baseline",
    "lack": "nehalem has no AVX2 with FMA and F16C",
}
ABORT = "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), signal.SIGABRT)"


@pytest.fixture
def real_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the real kernels and their tests, with the cache that all tests share."""
    monkeypatch.setattr("cli.kernel_tests._CHILD", REAL_CHILD)
    monkeypatch.delenv("XDG_CACHE_HOME")


def test_every_family_is_tried_in_every_dtype(run: Run) -> None:
    ended = run("doctor")
    assert "✓ cpu: haswell, level avx2" in ended.out
    assert "✓ engine.dtype auto: bfloat16: it is fast" in ended.out
    for family in ("attention", "products"):
        for dtype in ("float32", "bfloat16", "float16"):
            right = "kernels for avx2 are right; widened to float32"
            assert f"✓ {family} in {dtype}: {right}" in ended.out
    for family in ("int8-products", "int4-products", "int8-kv-attention"):
        assert f"✓ {family} in bfloat16: {right}" in ended.out
    assert "✓ sampling: kernels for avx2 are right" in ended.out


@pytest.mark.parametrize(
    ("instead", "end"),
    [
        (
            f"import resource; sys.stderr.write('first\\nLLVM ERROR: no symbol\\n\\n'); {ABORT}",
            "was ended by SIGABRT: LLVM ERROR: no symbol",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 3)", "was ended by signal 37"),
        ("raise ValueError('no such kernel')", "ended with 1: ValueError: no such kernel"),
        ("report = {'reason': 3}", "said '{\"reason\": 3}'"),
        ("sys.exit()", "said ''"),
    ],
)
def test_a_child_that_dies_is_a_problem_with_its_end_and_the_others_go_on(
    run: Run, use_child: UseChild, instead: str, end: str
) -> None:
    use_child(ON_PRODUCTS + instead)
    ended = run("doctor")
    words = " ".join(ended.out.split())
    assert ended.code == 1
    problem = f"✗ products in bfloat16: the test did not get through its process {end}. Please"
    assert problem in words
    assert words.count("✗") == 1
    assert words.count("are right") == 9


def test_a_cpu_that_cannot_be_asked_for_is_the_one_problem(use_child: UseChild) -> None:
    use_child("os.kill(os.getpid(), signal.SIGILL)")
    (finding,) = check_kernels()
    assert finding.problem is not None
    assert "SIGILL" in finding.problem


def test_a_child_that_never_ends_is_ended(use_child: UseChild) -> None:
    use_child("signal.pause()")
    with pytest.raises(ChildError, match=r"had not ended after 0\.1 s"):
        ask(FamilyReport, "sampling", deadline_s=0.1)


def test_kernels_that_are_wrong_are_a_remark_since_torch_takes_their_place(
    run: Run, use_child: UseChild
) -> None:
    use_child(ON_PRODUCTS + 'report["reason"] = "a norm differs from torch\'s by 3"')
    ended = run("doctor")
    found = "✓ products in bfloat16: torch's operations, right and slower\n    a norm differs"
    assert found in ended.out
    assert ended.code == 0


def test_variables_that_name_another_cpu_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    assert "NUMBA_CPU" not in run("doctor").out
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    words = " ".join(run("doctor").out.split())
    assert "by NUMBA_CPU_NAME='haswell', NUMBA_CPU_FEATURES='' in the environment" in words


def test_a_cpu_without_kernels_is_a_remark_with_the_reason(run: Run, use_child: UseChild) -> None:
    """A real child of such a CPU reports this in tests/unit/common/engine/kernel_checks."""
    use_child(f"report |= {OLD_CPU}")
    ended = run("doctor")
    assert ended.code == 0
    assert "✓ cpu: nehalem, level baseline" in ended.out
    assert "✓ engine.dtype auto: float32: the fastest on baseline" in ended.out
    assert "✓ kernels: none; torch's operations do everything, right and slower" in ended.out
    assert "\n    nehalem has no AVX2 with FMA and F16C" in ended.out
    assert "sampling" not in ended.out  # nothing is left to be tried


@pytest.mark.usefixtures("real_child")
def test_a_real_child_tries_a_family() -> None:
    target = host_target()
    report = kernel_checks._target()
    assert (report.cpu, report.level) == (target.cpu, target.level)
    assert (report.lack is None) == target.has_kernels
    tried = ask(FamilyReport, "sampling")
    assert tried == FamilyReport(report.lack, target.storage_of("float32"))
