"""Check that a folder holds a causal LM with its head, not something that only looks like one."""

from pathlib import Path

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from common.engine.weights.config_file import ADAPTER, CONFIG, read_config
from common.engine.weights.text_part import multimodal_class
from pdserve.errors import SetupError

_CLASSIFIERS = {"shieldgemma2"}  # that `transformers` lists among the models that write
# of the makers' own folders, by model type, where `transformers` has another name
_MAKERS_NAMES = {"qwen2_5_omni": "Qwen2_5OmniModel"}
# the last is that of models which also see or hear: their text model has a head too
_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def refuse_other_kinds(folder: Path, config: PreTrainedConfig) -> None:
    """Raise SetupError unless the folder says that it holds a causal LM, or at least the body of one.

    A body may lack a head where the head is tied; any other missing head shows when the weights are loaded.
    A folder that says nothing is judged by its weights alone. Of a model around the one that writes, whose
    configuration `config` is, the folder says the kind too.
    """
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    multimodal = multimodal_class(config)
    is_unknown = config.model_type not in known and multimodal is None
    if is_unknown or config.model_type in _CLASSIFIERS:
        raise SetupError(f"the model is not supported: {config.model_type} is no causal LM")
    names = {*_classes(known.get(config.model_type, ()))}
    names.update({multimodal.__name__} if multimodal else ())
    names.update(_classes(MODEL_MAPPING_NAMES.get(config.model_type, ())))
    for architecture in (*(config.architectures or ()), *_said(folder)):
        if architecture not in names and not architecture.endswith(_HEADS):
            raise SetupError(
                f"{folder / CONFIG}: {architecture} is no causal LM",
                "Give the causal LM, not a classifier, a reward model or an encoder made from it",
            )
    if (folder / ADAPTER).exists():
        raise SetupError(
            f"{folder / ADAPTER} says that an adapter (LoRA) belongs to these weights",
            "Merge it into the weights (merge_and_unload), or remove it where that is done",
        )


def _said(folder: Path) -> list[str]:
    """Return the names that config.json gives the whole model, without its maker's own."""
    fields = read_config(folder)
    named = fields.get("architectures") or []
    own = _MAKERS_NAMES.get(str(fields.get("model_type")))
    return [str(name) for name in (named if isinstance(named, list) else [named]) if name != own]


def _classes(named: str | tuple[str, ...]) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named
