"""Selective scan (Mamba, Gu and Dao 2023) from a given state; that of `transformers` begins at zero."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch.nn import functional

from common.engine.state.copied import function_of, names_in, with_functions
from common.engine.state.layer_state import LayerState

_SCAN = "mamba_selective_scan"


def has_scan(module: torch.nn.Module) -> bool:
    """Return True if the module's forward calls the selective scan."""
    return _SCAN in names_in(module)


class ContinuedScan:
    """Forward of one mixer, whose scan goes on from the state that the call begins with.

    The mixer's own code runs, with another function under the scan's name. It calls the one of
    `transformers`, which may be a kernel. A scan is linear in its state: what the state before it adds to
    each output is added to a scan from zero.
    """

    def __init__(self, module: torch.nn.Module, layer: int) -> None:
        self._scan = function_of(module, _SCAN)
        self._layer = layer
        self._befores: Iterator[torch.Tensor | None] = repeat(None)
        self._forward = with_functions(module, {_SCAN: self._continued})

    def __call__(self, hidden: torch.Tensor, **cache: LayerState) -> Any:
        """Run the mixer on tokens [B, T, channels] with the one cache that it takes."""
        (state,) = cache.values()
        before = state.get_recurrent_state(self._layer)
        # Zamba scans head by head, and its states are [B, heads, inner, N]
        if before is not None and before.dim() == 4:
            self._befores = iter(before.unbind(1))
        else:
            self._befores = repeat(before)
        return self._forward(hidden, **cache)

    def _continued(
        self,
        hidden: torch.Tensor,
        dt: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        *,
        z: torch.Tensor | None = None,
        delta_bias: torch.Tensor,
        return_last_state: bool,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scan `hidden` and `dt` [B, inner, T] with `a` [inner, N], `b` and `c` [B, N, T]; gate by `z`."""
        before = next(self._befores)
        if before is None:
            whole: tuple[torch.Tensor, torch.Tensor] = self._scan(
                hidden, dt, a, b, c, z=z, delta_bias=delta_bias, return_last_state=True, **others
            )
            return whole
        output, last = self._scan(
            hidden, dt, a, b, c, delta_bias=delta_bias, return_last_state=True, **others
        )
        steps = functional.softplus(dt + delta_bias.to(dt.dtype)[..., None]).float()
        # [B, inner, T, N]: the share of the state before that is left behind each token
        left = torch.exp(steps.cumsum(dim=-1)[..., None] * a[None, :, None])
        left = left * before.float()[:, :, None]
        output = output + torch.einsum("bitn,bnt->bit", left, c.float()).to(output.dtype)
        if z is not None:
            output = output * functional.silu(z)
        return output, last + left[:, :, -1].to(last.dtype)
