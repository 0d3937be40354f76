"""Tiny random models of every kind that is served, by the names that the tests of one process give them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from tests.unit.common.engine import test_kv_shapes, test_own_ways, test_scores
from tests.unit.common.engine.attention import test_by_cache, test_indexed
from tests.unit.common.engine.state.hybrids import HYBRIDS, save_hybrid
from tests.unit.common.engine.tiny_models import FAMILIES, VOCAB, load_reference, save_model
from tests.unit.common.engine.weights import test_gguf_kept
from tests.unit.common.engine.weights.prequantized import test_kept
from tests.unit.common.engine.weights.prequantized.writing import Write, write_folders
from tests.unit.common.engine.weights.quantized_gguf import QuantizedGguf, write_quantized
from tests.unit.common.engine.weights.tiny_multimodal import SEEING, save_multimodal

Fields = dict[str, object]

_GEMMA_3N: Fields = {
    **{name: FAMILIES["llama"][name] for name in FAMILIES["llama"] if name != "num_hidden_layers"},
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
}
_CAUSAL: dict[str, tuple[str, Fields]] = {
    **{family: (family, {}) for family in FAMILIES},
    **{case: (case.split(",")[0], fields) for case, (fields, _) in test_scores.CASES.items()},
    **{case: found[:2] for case, found in test_kv_shapes.CASES.items()},
    **{case: found[:2] for case, found in test_by_cache.CASES.items()},
    **test_own_ways.CASES,
    **{name: (name, test_indexed.SHAPE | more) for name, more in test_indexed.FAMILIES.items()},
    "gemma 3n": ("gemma3n_text", _GEMMA_3N),
}


@dataclass(frozen=True)
class Written:
    """Folder or cache entry that is served, and the model as `transformers` runs it."""

    folder: Path
    reference: Any


Writer = Callable[[Path], Written]


def _causal(family: str, fields: Fields, folder: Path) -> Written:
    save_model(folder, family, **fields)
    return Written(folder, load_reference(folder))


def _hybrid(family: str, folder: Path) -> Written:
    save_hybrid(folder, family)
    return Written(folder, load_reference(folder))


def _seeing(family: str, folder: Path) -> Written:
    return Written(folder, save_multimodal(folder, family))


def _integers(settings: Fields, write: Write, folder: Path) -> Written:
    torch.manual_seed(1)
    folders = write_folders(folder, "qwen2", settings, write)
    return Written(folders.quantized, load_reference(folders.plain))


def _gguf(model: QuantizedGguf, folder: Path) -> Written:
    file = write_quantized(folder / "tiny.gguf", model)
    source = resolve_model(str(file), folder / "cache", NoProgress(), keep_quantized=True)
    return Written(source.path, test_gguf_kept.reference_of(file))


KINDS: dict[str, Writer] = {
    **{name: partial(_causal, family, fields) for name, (family, fields) in _CAUSAL.items()},
    **{family: partial(_hybrid, family) for family in HYBRIDS},
    **{f"text of {family}": partial(_seeing, family) for family in SEEING},
    **{
        f"integers of {name}": partial(_integers, settings, write)
        for name, (settings, write, _) in test_kept.CASES.items()
    },
    **{f"GGUF, {name}": partial(_gguf, model) for name, model in test_gguf_kept.MODELS.items()},
}
