"""Comparison of a kernel's numbers with torch's."""

import torch

from common.engine.kernel_checks.verdicts import WrongNumbersError

# float32 sums in another order; two-byte numbers that are rounded once more
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def require_close(what: str, ours: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise WrongNumbersError unless they agree to the rounding of `dtype`; NaN agrees with nothing."""
    limit = _TOLERANCE[dtype]
    error = (ours.float() - plain.float()).abs() / (1 + plain.float().abs())
    if not bool((error <= limit).all()):
        worst = float(error.max())
        raise WrongNumbersError(f"{what} differs from torch's by {worst:.2g}, more than {limit:g}")


def require_equal(what: str, ours: object, plain: object) -> None:
    """Raise WrongNumbersError unless both are the same."""
    if ours != plain:
        raise WrongNumbersError(f"{what} differs from torch's")


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return normal random numbers, the same at every call."""
    # torch.Generator() needs a part of torch that workers do without (quick_torch.py)
    generator = torch.default_generator.clone_state().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)
