"""A kernel that is wrong is found out before it is used, and torch's operations take its place."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.cpu import masking as cpu_masking
from common.engine.cpu import sampling as cpu_sampling
from common.engine.cpu import target
from common.engine.cpu.linking import KernelError
from common.engine.fused.cpu_ops import CpuOps
from common.engine.kernel_checks.verdicts import (
    AttentionShape,
    attention_verdict,
    products_verdict,
    sampling_verdict,
    trusted_products,
)
from tests.patience import WITHIN_S
from tests.unit.cli.test_kernel_tests import OLD_CPU
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.tiny_models import (
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    save_model,
)

Break = Callable[..., None]
SHAPE = AttentionShape("float32", 16, 16, 2)  # the tiny models'
PROMPTS = [[7, 3, 9, 50], list(range(60)), [88]]
NEW_TOKENS = 12
has_kernels = pytest.mark.skipif(
    not target.host_target().has_kernels, reason="no kernel is run here"
)
# the same in another process, and what that tells of its CPU: `python -c SCRIPT FOLDER`
SCRIPT = """
import json, sys
from pathlib import Path
from common.engine.kernel_checks.__main__ import main
from tests.unit.common.engine.kernel_checks.test_verdicts import tokens_of

print(json.dumps(tokens_of(Path(sys.argv[1]))))
main("target")
"""


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Break:
    """`spoil(owner, "name", change)` calls `change` on the arguments after each call of the kernel."""

    def replace(owner: Any, name: str, change: Callable[..., None]) -> None:
        right = getattr(owner, name)

        def wrong(*args: Any, **named: Any) -> Any:
            result = right(*args, **named)
            change(*args)
            return result

        monkeypatch.setattr(owner, name, wrong)

    return replace


@has_kernels
def test_kernels_that_are_right_have_no_reason_against_them() -> None:
    assert attention_verdict(SHAPE) is None
    assert products_verdict("float32", "silu") is None
    assert products_verdict("bfloat16", "gelu_tanh") is None
    assert sampling_verdict() is None


@has_kernels
@pytest.mark.parametrize(
    ("name", "out", "what"),
    [
        ("norm", 4, "a norm"),
        ("add_norm", 5, "a sum's norm"),
        ("linear", 3, "a product"),
        ("gated", 5, "a gated product"),
        ("embed", 3, "an embedding"),
        ("rotate", 1, "heads"),
        ("norm_heads", 1, "heads"),
    ],
)
@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_an_operation_with_one_wrong_number_is_named(
    spoil: Break, name: str, out: int, what: str, wrong: float
) -> None:
    spoil(CpuOps, name, lambda *args: args[out][-1].view(-1)[-1:].add_(wrong))
    reason = products_verdict("float32", "silu")
    assert reason is not None
    assert reason.startswith(f"{what}")
    assert "differs from torch's by" in reason


@has_kernels
def test_wrong_attention_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from common.engine.attention.cpu import CpuBackend

    right = CpuBackend.attend
    monkeypatch.setattr(CpuBackend, "attend", lambda *args: right(*args) * 1.001)
    reason = attention_verdict(SHAPE)
    assert reason is not None
    assert reason.startswith("attention differs from torch's by")


@has_kernels
@pytest.mark.parametrize(
    ("module", "name", "change", "what"),
    [
        (cpu_sampling, "truncate", lambda logits, _: logits[0].fill_(1.0), "truncated logits"),
        (cpu_masking, "mask_logits", lambda logits, *_: logits[1, :9].fill_(0.5), "masked logits"),
    ],
)
def test_wrong_sampling_is_found_out(
    spoil: Break, module: Any, name: str, change: Callable[..., None], what: str
) -> None:
    spoil(module, name, change)
    assert sampling_verdict() == f"{what} differs from torch's"


@has_kernels
def test_wrong_tokens_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_sampling, "draw_tokens", lambda logits, rows, *_: [0] * len(rows))
    assert sampling_verdict() == "drawn tokens differs from torch's"


@has_kernels
def test_a_kernel_that_cannot_be_built_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise KernelError("kernel x needs y, which nothing defines")

    monkeypatch.setattr(CpuOps, "norm", refuse)
    assert products_verdict("float32", "silu") == "kernel x needs y, which nothing defines"


@has_kernels
def test_other_errors_are_not_taken_for_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(CpuOps, "norm", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        products_verdict("float32", "silu")


def tokens_of(folder: Path) -> tuple[list[list[int]], list[str]]:
    """Return the tokens of an engine here, and the classes of its model, operations and attention."""
    engine = make_engine(folder, engine_config())
    tokens = continuations(engine, PROMPTS, NEW_TOKENS, 40)
    model: Any = engine.runner._model
    decoder = getattr(model, "_decoder", model)
    return tokens, [type(part).__name__ for part in (model, decoder._ops, decoder._backend)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def expected(llama: Path) -> list[list[int]]:
    """Return the tokens that `transformers` gives."""
    reference = load_reference(llama)
    with torch.inference_mode():
        return [continue_greedily(reference, prompt, NEW_TOKENS) for prompt in PROMPTS]


@pytest.fixture
def tried_anew() -> Iterator[None]:
    """Have the next engine try the kernels of a fused layer, and forget the verdict."""
    trusted_products.cache_clear()
    yield
    trusted_products.cache_clear()


@has_kernels
def test_an_engine_on_kernels_gives_the_tokens(llama: Path, expected: list[list[int]]) -> None:
    assert tokens_of(llama) == (expected, ["ReplayedDecoder", "CpuOps", "CpuBackend"])


@has_kernels
@pytest.mark.usefixtures("tried_anew")
def test_an_engine_with_a_kernel_that_is_wrong_gives_the_same_tokens(
    llama: Path, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuOps, "rotate", lambda self, x, heads, cos, sin: x.zero_())
    assert tokens_of(llama) == (expected, ["FusedDecoder", "TorchOps", "CpuBackend"])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names a CPU of x86-64")
def test_an_engine_on_a_cpu_without_kernels_gives_the_same_tokens(
    llama: Path, expected: list[list[int]]
) -> None:
    old_cpu = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(llama)],
        env=os.environ | old_cpu,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    found, report = map(json.loads, done.stdout.splitlines()[-2:])
    assert found == [expected, ["FusedDecoder", "TorchOps", "ReferenceBackend"]]
    assert report == OLD_CPU
