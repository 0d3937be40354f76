"""Choice of the loader: ours for a plain Llama on a CPU, `transformers` for all else.

Nothing here imports `transformers` before a folder asks for it: that takes two seconds of a core.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.config import EngineConfig, StoredDtype
from common.engine.model_spec import ModelSpec
from common.engine.quick_import import import_transformers
from common.engine.quick_torch import complete_generators, import_parts
from common.engine.weights.plain import AsServed, find_plain, load_plain

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load(
    folder: Path,
    config: EngineConfig,
    dtype: StoredDtype,
    device: torch.device,
    as_served: AsServed,
    *,
    keeps_integers: bool = False,
) -> tuple[torch.nn.Module, ModelSpec]:
    """Load a folder's model with its numbers, as load_model does and with its errors."""
    plain = find_plain(folder, config, device)
    if plain is not None:
        return load_plain(plain, dtype, as_served)
    import_parts()
    from common.engine.weights.load import load_model

    return load_model(
        folder,
        dtype,
        device,
        allow_unused_weights=config.allow_unused_weights,
        keeps_integers=keeps_integers,
        context_tokens=config.max_context_tokens,
        as_served=as_served,
    )


def import_loader(folder: Path, config: EngineConfig, device: torch.device) -> None:
    """Import what `load` will need."""
    if find_plain(folder, config, device) is not None:
        complete_generators()
        return
    import_parts()
    import_transformers()
    import common.engine.weights.load  # noqa: F401 - here its time is expected


def read_model_config(
    folder: Path, config: EngineConfig, device: torch.device
) -> "tuple[PreTrainedConfig, str]":
    """Return a model's configuration, and the name of the class that computes its text."""
    plain = find_plain(folder, config, device)
    if plain is not None:
        return plain.config, plain.architecture
    from common.engine.weights.context import use_context
    from common.engine.weights.decoder_part import use_decoder_sizes
    from common.engine.weights.text_part import text_architecture
    from common.engine.weights.writing_part import read_writing_config

    found = read_writing_config(folder)
    use_decoder_sizes(found)
    use_context(found, config.max_context_tokens)
    return found, text_architecture(found)
