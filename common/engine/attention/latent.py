"""Multi-head latent attention (DeepSeek-V2, DeepSeek-AI 2024) in its absorbed form: blocks hold latents.

A token's keys and values of all heads are made of one latent c, with two matrices of each head, and of a
rotated part r that all heads share: k = (K c, r) and v = V c. A score q . k is (K^T q0) . c + q1 . r, where
q0 and q1 are the parts of q. The sum of weights times v is V times the sum of weights times c. So queries
are multiplied by K, what attention gives by V, and a token has one KV head: its key is (c, r), its value c.
"""

from typing import Any

import torch

_PARTS = ("expand_kv", "kv_b_proj", "qk_nope_head_dim", "v_head_dim")


def keep_latents(latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the key and value [1, 1, T, channels] of the one KV head; takes the place of `expand_kv`."""
    return torch.cat((latent, rotated), dim=-1), latent


def absorb(model: torch.nn.Module, *, is_absorbed: bool) -> None:
    """Have a model's latent attention give latents to our attention, or again what they expand to."""
    for module in model.modules():
        if all(hasattr(module, name) for name in _PARTS):
            vars(module).pop("expand_kv", None)
            if is_absorbed:
                module.expand_kv = keep_latents


def has_latents(module: Any) -> bool:
    """Return True for a module whose keys and values are latents."""
    return getattr(module, "expand_kv", None) is keep_latents


def into_latents(module: Any, query: torch.Tensor) -> torch.Tensor:
    """Return queries [1, heads, T, channels of a head] as those of latents [1, heads, T, key channels].

    Where a module's keys and values are no latents, return them as they are; so does `out_of_latents`.
    """
    if not has_latents(module):
        return query
    size = module.qk_nope_head_dim
    absorbed = query[..., :size] @ _up(module)[:, :size]
    return torch.cat((absorbed, query[..., size:]), dim=-1)


def out_of_latents(module: Any, out: torch.Tensor) -> torch.Tensor:
    """Return weighted sums of latents [T, heads, latent] as those of values [T, heads, v_head_dim]."""
    if not has_latents(module):
        return out
    values = _up(module)[:, module.qk_nope_head_dim :]
    return (out.transpose(0, 1) @ values.transpose(1, 2)).transpose(0, 1)


def _up(module: Any) -> torch.Tensor:
    """Return the matrices [heads, channels of key and value, latent] of a layer, as a view."""
    weight: torch.Tensor = module.kv_b_proj.weight
    return weight.unflatten(0, (-1, module.qk_nope_head_dim + module.v_head_dim))
