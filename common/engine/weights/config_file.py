"""Fields of config.json as written, before `transformers` interprets them."""

import json
from collections.abc import Mapping
from pathlib import Path

from pdserve.errors import SetupError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"  # beside it where an adapter (LoRA) belongs to the weights


def read_config(folder: Path) -> Mapping[str, object]:
    """Read the fields of a folder's config.json. Raises SetupError when it is absent or no JSON object."""
    path = folder / CONFIG
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SetupError(f"{path} is not JSON", "Copy it again") from error
    if not isinstance(fields, dict):
        raise SetupError(f"{path} is not a JSON object", "Copy it again")
    return fields
