"""Tiny configurations of any model type: the default one, with smaller sizes and fewer layers."""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from scripts.survey.fields import (
    CONTEXTS,
    HEADS,
    KV_HEADS,
    LAYERS,
    SIZES,
    TOWER,
    UNSAID,
    is_token_id,
    token_ids,
)
from scripts.survey.overrides import OVERRIDES

_FEWEST, _MOST = 2, 6  # layers
_TEXT = ("text_config", "thinker_config", "llm_config")
Fields = dict[str, Any]  # of a configuration, whose types are the model's own affair


def tiny_config(kind: str) -> PreTrainedConfig:
    """Return a configuration of a model of a few hundred thousand weights."""
    default = CONFIG_MAPPING[kind]()
    fields = _shrunk(default, is_tower=False)
    for name, value in OVERRIDES.get(kind, {}).items():
        inner, _, key = name.rpartition(".")
        (fields[inner] if inner else fields)[key] = value
    config: PreTrainedConfig = type(default)(**fields)
    return config


def _shrunk(config: PreTrainedConfig, *, is_tower: bool) -> Fields:
    parts = getattr(config, "sub_configs", None) or {}
    fields = {name: value for name, value in config.to_dict().items() if name not in parts}
    small = _sizes(fields, TOWER if is_tower else {})
    if not is_tower:
        small |= {n: v for n, v in UNSAID.items() if n in fields and fields[n] is None}
        small |= {name: size for name, size in CONTEXTS.items() if type(fields.get(name)) is int}
    small |= _layers(fields, is_tower=is_tower)
    small |= token_ids([name for name, value in fields.items() if is_token_id(name, value)])
    small |= _rotary(config, fields, small)
    if "is_decoder" in fields:
        small["is_decoder"] = True
    for name in parts:
        part = getattr(config, name, None)
        if part is not None:
            inner = _shrunk(part, is_tower=is_tower or name not in _TEXT)
            small[name] = {"model_type": part.model_type} | inner
    return small


def _sizes(fields: Fields, others: Mapping[str, int]) -> Fields:
    small = {
        name: size
        for name, size in {**SIZES, **others}.items()
        if type(fields.get(name)) is int and fields[name] > size
    }
    if type(kv_heads := fields.get(KV_HEADS)) is int:
        all_alike = kv_heads == fields.get(HEADS)
        small[KV_HEADS] = small.get(HEADS, 4) if all_alike else min(2, kv_heads)
    # latent attention: some call the rotated part, or the whole key, the head
    for whole, size in (("qk_rope_head_dim", 8), ("qk_head_dim", 24)):
        if "head_dim" in small and fields.get("head_dim") == fields.get(whole):
            small["head_dim"] = size
    return small


def _layers(fields: Fields, *, is_tower: bool) -> Fields:
    """Return the fields that say how many layers there are, and of which kinds: each kind once or more."""
    names = [name for name in LAYERS if type(fields.get(name)) is int]
    if not names:
        return {}
    total = fields[names[0]]
    lists = {n: v for n, v in fields.items() if isinstance(v, list) and len(v) == total > 1}
    kinds: dict[str, int] = {}
    for layer in range(total):
        kinds.setdefault(str([values[layer] for values in lists.values()]), layer)
    chosen = sorted(kinds.values())[:_MOST]
    for layer in range(total):
        if len(chosen) < (1 if is_tower else _FEWEST) and layer not in chosen:
            chosen.append(layer)
    chosen.sort()
    small: Fields = dict.fromkeys(names, len(chosen))
    return small | {name: [values[i] for i in chosen] for name, values in lists.items()}


def _rotary(config: PreTrainedConfig, fields: Fields, small: Fields) -> Fields:
    """Return rotary parameters whose sections (of time, height, width) fit the small head."""
    parameters = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        return {}  # one for each kind of layer
    sections = parameters.get("mrope_section")
    if not sections and "mrope_section" in config.ignore_keys_at_rope_validation:
        sections = [16, 24, 24]  # the modules' own default
    if not sections:
        return {}
    share = parameters.get("partial_rotary_factor") or 1.0
    total = int(small.get("head_dim", 16) / 2 * share)
    scaled = [size * total // sum(sections) for size in sections]
    scaled[0] += total - sum(scaled)
    return {"rope_parameters": {**parameters, "mrope_section": scaled}}
