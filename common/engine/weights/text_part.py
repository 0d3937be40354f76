"""Text part of a checkpoint that also sees or hears: its towers are neither built nor read.

The model's own class of `transformers` computes, so names in the files, scales and positions stay its affair.
Only its other parts are taken out before the weights are read.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from common.engine.weights.foreign_towers import no_foreign_towers

# Families whose class embeds every token by its projectors too, before it takes the text's embedding.
_READ_FOR_TEXT = {"gemma3n": ("model.embed_vision", "model.embed_audio")}
# Families with a fused pass whose multimodal classes compute the same: body, then head, and no more.
_FUSED_BODIES = {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3_text"}

Model = Any  # of `transformers`, read by attribute name


def multimodal_class(config: PreTrainedConfig) -> type | None:
    """Return the class of `transformers` of a model with more than text; None for a causal LM alone."""
    kind = config.model_type
    names = {
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind),
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(kind),
    } - {None}
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    # some kinds have a causal LM of their own beside it: the folder says which one it holds
    is_causal = causal is not None and not names.intersection(config.architectures or [causal])
    if not names or is_causal:
        return None
    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING):
        if type(config) in mapping:
            found: type = mapping[type(config)]
            return found
    return None


def text_architecture(config: PreTrainedConfig) -> str:
    """Return the name of the causal LM that computes: that inside, for a multimodal model."""
    if multimodal_class(config) is None:
        return str((config.architectures or [""])[0])
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.get_text_config().model_type, "")
    return name if isinstance(name, str) else ""


def without_towers(multimodal: type) -> Any:
    """Return a class like `multimodal` that builds the language model and its head alone.

    It keeps the class's name and module, by which `transformers` finds the names in old checkpoints.
    """

    def init(self: Model, config: PreTrainedConfig, *args: object, **options: object) -> None:
        with no_foreign_towers(config):
            multimodal.__init__(self, config, *args, **options)  # type: ignore[misc]  # a class
        _remove_towers(self)

    space = {"__init__": init, "__module__": multimodal.__module__}
    return type(multimodal.__name__, (multimodal,), space)


def as_causal_lm(model: Model, config: PreTrainedConfig) -> Model:
    """Return the language model as a causal LM of its own where that computes the same, else `model`.

    It shares the modules. The fused pass knows causal LMs alone.
    """
    text = config.get_text_config()
    if text.model_type not in _FUSED_BODIES or getattr(text, "final_logit_softcapping", None):
        return model
    body, head = model.get_decoder(), model.get_output_embeddings()
    with torch.device("meta"):
        causal: Model = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)](text)
    has_body = type(getattr(causal, "model", None)) is type(body)
    if not has_body or type(getattr(causal, "lm_head", None)) is not type(head):
        return model
    causal.model, causal.lm_head, causal.config = body, head, body.config
    return causal


def _remove_towers(model: Model) -> None:
    """Take out every module beside the language model and its head, and ignore its tensors in files."""
    wanted = [model.get_decoder(), model.get_output_embeddings()]
    wanted += map(model.get_submodule, _READ_FOR_TEXT.get(model.config.model_type, ()))
    kept = [name for name, part in model.named_modules() if any(part is one for one in wanted)]
    towers = list(_beside(model, "", kept))
    for name in towers:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, None)
    patterns = {rf"^{re.escape(name)}\." for name in towers}
    model._keys_to_ignore_on_load_unexpected = patterns | set(
        model._keys_to_ignore_on_load_unexpected or ()
    )


def _beside(owner: nn.Module, prefix: str, kept: list[str]) -> Iterator[str]:
    """Yield the names of modules that neither hold nor are one of `kept`."""
    for child, part in owner.named_children():
        name = f"{prefix}{child}"
        if name in kept or "" in kept:
            continue
        if any(one.startswith(f"{name}.") for one in kept):
            yield from _beside(part, f"{name}.", kept)
        else:
            yield name
