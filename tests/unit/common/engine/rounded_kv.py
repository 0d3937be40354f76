"""The oracle of 8-bit keys and values: `transformers`, whose caches give back what ours would have stored."""

from typing import Any

import torch

from common.engine.memory.quantized_kv import LEVELS
from common.engine.own_rounding import rounded_kv


def likeliest_rounded(
    reference: Any, prompt: list[int], answer: list[int], form: str = "int8"
) -> list[int]:
    """Return what such a model finds likeliest behind the prompt, and behind each token of the answer.

    An answer that is equal to it is the greedy one.
    """
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    with torch.inference_mode(), rounded_kv(reference, LEVELS[form]):
        logits = reference(ids, use_cache=True).logits[0]
    tokens: list[int] = logits[len(prompt) - 1 :].argmax(dim=-1).tolist()
    return tokens
