"""Refusal of quantized checkpoints, found by the folder's files and by the dtypes of its tensors.

`transformers` drops scales that it does not know, and lets a quantization that it does not know pass: the
model then writes garbage. No format is served until a test holds it against full weights.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from common.engine.weights.config_file import CONFIG, read_config
from common.engine.weights.stored import StoredTensor
from pdserve.errors import SetupError

_KEYS = ("quantization_config", "compression_config", "quantization")
# ModelOpt's, AutoGPTQ's, AutoAWQ's, Quanto's
_FILES = (
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "quanto_qmap.json",
)
_FLOATS = {"F64", "F32", "F16", "BF16"}
_NARROW = ("F4", "F6_", "F8_")  # and F64 is not
_REMEDY = "Give the model's full weights, or its GGUF file"


def refuse_quantized_folder(folder: Path) -> None:
    """Raise SetupError, naming the file, when config.json or one beside it tells of quantized weights."""
    config = read_config(folder)
    for section in (config, *_sections(config)):
        for key in _KEYS:
            if settings := section.get(key):
                reason = f"{key} says that the weights are quantized ({_method(settings)})"
                raise SetupError(f"{folder / CONFIG}: {reason}", _REMEDY)
    for name in _FILES:
        if (folder / name).exists():
            raise SetupError(
                f"{folder / name} says that the weights are quantized",
                f"{_REMEDY}; remove the file if it is left over from other weights",
            )


def refuse_quantized_tensors(tensors: Mapping[str, StoredTensor]) -> None:
    """Raise SetupError, naming the tensor, when one is stored as only quantized weights are."""
    for name, tensor in tensors.items():
        is_narrow = tensor.dtype.startswith(_NARROW)
        if is_narrow or (name.endswith(".weight") and tensor.dtype not in _FLOATS):
            reason = f"{name} is stored as {tensor.dtype}, so the weights are quantized"
            raise SetupError(f"{tensor.file}: {reason}", _REMEDY)


def _sections(config: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Return the sections of nested models, such as text_config."""
    return (value for value in config.values() if isinstance(value, dict))


def _method(settings: object) -> str:
    names = ("quant_method", "quant_algo", "format", "bits")
    known = settings if isinstance(settings, dict) else {}
    return next((f"{name} {known[name]!r}" for name in names if known.get(name)), "no method named")
