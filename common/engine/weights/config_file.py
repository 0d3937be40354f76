"""Fields of config.json as written, before `transformers` interprets them."""

import json
from collections.abc import Mapping
from pathlib import Path

from pdserve.errors import SetupError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"  # beside it where an adapter (LoRA) belongs to the weights

# parts of a model that also speaks (Qwen Omni): they make sound of what its thinker writes; none is loaded
_SPEECH = ("talker", "token2wav", "code2wav")


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


def speech_parts(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of a model's parts that make sound; none of a model without a thinker."""
    return _SPEECH if "thinker_config" in config else ()
