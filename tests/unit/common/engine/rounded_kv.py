"""The oracle of 8-bit keys and values: `transformers`, whose caches give back what ours would have stored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from common.engine.memory.quantized_kv import dequantize, quantize


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Return what is read of keys or values [..., channels of a head] that were stored in 8 bits."""
    return dequantize(quantize(x), x.shape[-1]).to(x.dtype)


@contextmanager
def rounded_kv(model: Any) -> Iterator[None]:
    """Have a model of `transformers` attend over rounded keys and values, those of its own step too.

    Latents are rounded twice, as ours are: with what is rotated of keys, and alone as values.
    """
    latent = [m for m in model.modules() if hasattr(m, "expand_kv") and hasattr(m, "kv_b_proj")]
    with pytest.MonkeyPatch.context() as patch:
        for module in latent:
            patch.setattr(module, "expand_kv", _expanding_rounded(module.expand_kv))
        for kind in () if latent else (DynamicLayer, DynamicSlidingWindowLayer):
            patch.setattr(kind, "update", _updating_rounded(kind.update))
        yield


def likeliest_rounded(reference: Any, prompt: list[int], answer: list[int]) -> list[int]:
    """Return what such a model finds likeliest behind the prompt, and behind each token of the answer.

    An answer that is equal to it is the greedy one.
    """
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    with torch.inference_mode(), rounded_kv(reference):
        logits = reference(ids, use_cache=True).logits[0]
    tokens: list[int] = logits[len(prompt) - 1 :].argmax(dim=-1).tolist()
    return tokens


def _expanding_rounded(expand: Callable[..., Any]) -> Callable[..., Any]:
    def expand_kv(latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key = rounded(torch.cat((latent, rotated), dim=-1))
        sizes = latent.shape[-1], rotated.shape[-1]
        keys, _ = expand(*key.split(sizes, dim=-1))
        _, values = expand(rounded(latent), rotated)
        return keys, values

    return expand_kv


def _updating_rounded(update: Callable[..., Any]) -> Callable[..., Any]:
    def rounded_update(
        self: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        return update(self, rounded(keys), rounded(values), *args, **kwargs)

    return rounded_update
