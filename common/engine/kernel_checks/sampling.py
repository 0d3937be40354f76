"""Check of the sampler's kernels and the grammar mask against their torch forms."""

import numpy as np
import torch

from common.engine.cpu import masking as cpu_masking
from common.engine.cpu import sampling as cpu_sampling
from common.engine.kernel_checks.close import normal, require_close, require_equal
from common.engine.sampling import grammar_masks, torch_kernels
from common.engine.sampling.noise import noise_key
from common.engine.sampling.options import Adjustments, Ragged, Truncation

# longer than a span that is read several times, and no multiple of a vector
_ROWS, _VOCAB = 4, 5003
_KEYS = [noise_key(seed, position=0) for seed in range(_ROWS)]
_TEMPERATURES = [0.7, 1.0, 1.6, 1e-6]


def check() -> None:
    """Compile or load all kernels for float32, and compare. Raises WrongNumbersError, KernelError."""
    logits = _logits()
    broken = logits.clone()
    broken[1, 9], broken[2, _VOCAB - 1] = float("nan"), float("inf")
    for name, given in (("greedy tokens", logits), ("what is finite", broken)):
        ours, plain = (m.greedy_tokens(given) for m in (cpu_sampling, torch_kernels))
        require_equal(
            name, ours[1] if given is broken else ours, plain[1] if given is broken else plain
        )
    _check_draws(logits, "drawn tokens")
    adjusted = [m.adjust(logits, [0, 2, 3], _adjustments()) for m in (cpu_sampling, torch_kernels)]
    require_close("adjusted logits", adjusted[0], adjusted[1], torch.float32)
    check_truncation()
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (2, -(-_VOCAB // 32)), np.int32)
    masked = [broken.clone() for _ in range(2)]
    cpu_masking.mask_logits(masked[0], [0, 2], words)
    grammar_masks.mask_logits(masked[1], [0, 2], words)
    # torch's form makes an infinity NaN
    require_equal("masked logits", *(m.masked_fill(~m.isfinite(), 7.0).tolist() for m in masked))


def _logits() -> torch.Tensor:
    # steps of a quarter, so that numbers tie; the maximum of each row is alone
    logits = (8 * normal(_ROWS, _VOCAB)).round() / 4
    logits[torch.arange(_ROWS), torch.tensor([0, 17, 4097, _VOCAB - 1])] += 20
    return logits


def _check_draws(logits: torch.Tensor, name: str) -> None:
    given = logits, list(range(_ROWS)), _TEMPERATURES, _KEYS
    require_equal(name, *(m.draw_tokens(*given) for m in (cpu_sampling, torch_kernels)))


def check_truncation() -> None:
    """Check truncation, which takes half of the time to compile. Raises as `check` does."""
    logits = _logits()
    options = Truncation(
        temperature=np.array([1.0, 0.7, 1.3, 1.0]),
        top_k=np.array([0, 40, 1500, 3]),
        top_p=np.array([0.9, 1.0, 0.8, 0.99]),
        min_p=np.array([0.0, 1e-3, 0.0, 0.0]),
    )
    kept = []
    for module in (cpu_sampling, torch_kernels):
        truncated = logits.clone()
        module.truncate(truncated, options)
        kept.append(truncated.isfinite().tolist())
        _check_draws(truncated, "tokens drawn of some")
    require_equal("truncated logits", *kept)


def _adjustments() -> Adjustments:
    def entries(values: list[float]) -> Ragged:
        return Ragged(np.array([0, 2, 2, 3]), np.array([5, 17, 4097]), np.array(values, np.float32))

    return Adjustments(
        biases=entries([3.0, -2.0, 1.0]),
        seen=entries([0.0, 2.0, 1.0]),
        repetition=np.array([1.2, 1.0, 0.9], np.float32),
        presence=np.array([0.5, 0.0, -0.5], np.float32),
        frequency=np.array([0.1, 0.0, 0.2], np.float32),
    )
