"""Names of stored tensors as `transformers` knows them: it renames those of old and of nested checkpoints."""

from collections.abc import Callable
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def renaming(model: Any) -> Callable[[str], str]:
    """Return a function that names a stored tensor as the report of `model`'s loading does."""
    changes = get_model_conversion_mapping(model)
    names = [change for change in changes if isinstance(change, WeightRenaming)]
    values = [change for change in changes if isinstance(change, WeightConverter)]
    wanted = model.state_dict()
    return lambda name: str(
        rename_source_key(name, names, values, model.base_model_prefix, wanted)[0]
    )
