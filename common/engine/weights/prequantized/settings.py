"""Settings of a quantized folder: a section of config.json, or the file of a quantizer beside it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.engine.weights.config_file import CONFIG, read_config, speech_parts
from common.engine.weights.folder import read_json_object
from common.engine.weights.prequantized.parts import REMEDY
from pdserve.errors import SetupError

_KEYS = ("quantization_config", "compression_config", "quantization")
# ModelOpt's, AutoGPTQ's and AutoAWQ's, with the method that they do not name
_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}
_UNKNOWN_FILES = ("quantization_config.json", "quanto_qmap.json")  # Quanto's
_OLD_NAMES = {"w_bit": "bits", "q_group_size": "group_size"}  # AutoAWQ's
_TOLD = ("quant_method", "quant_algo", "format", "bits", "w_bit")
_LEFT_OVER = f"{REMEDY}; remove {{}} if it is left over from other weights"

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Settings:
    """Quantization that a file describes."""

    source: str  # the file, and the section in it
    fields: Fields
    method: str  # "": none is named

    def needs(self, key: str, *known: object) -> None:
        """Raise SetupError, naming the key, unless its value is one that is known; None: it may be absent."""
        value = self.fields.get(key)
        if (value.lower() if isinstance(value, str) else value) not in known:
            raise self.refusal(f"{key} {value!r} is not supported")

    def number(self, key: str, default: int) -> int:
        """Return a whole number. Raises SetupError for another value."""
        value = self.fields.get(key, default)
        if type(value) is not int:
            raise self.refusal(f"{key} is {value!r}")
        return value

    def refusal(self, reason: str = "") -> SetupError:
        """Return an error that begins with these settings."""
        says = f"{self.source} says that the weights are quantized ({self._told})"
        remedy = _LEFT_OVER.format(self.source.rpartition("/")[2])
        return SetupError(f"{says}: {reason}" if reason else says, remedy)

    @property
    def _told(self) -> str:
        known = (f"{key} {self.fields[key]!r}" for key in _TOLD if self.fields.get(key))
        return next(known, "no method named")


def read_settings(folder: Path) -> Settings | None:
    """Read what a folder says of its weights' quantization; None: nothing.

    Raises SetupError where two places disagree, or for a file of a method that is not known.
    """
    for name in _UNKNOWN_FILES:
        if (folder / name).exists():
            raise Settings(str(folder / name), {}, "").refusal()
    found = [*_of_config(folder), *_of_files(folder)]
    for other in found[1:]:
        _refuse_difference(found[0], other)
    if not found:
        return None
    fields = {key: value for each in reversed(found) for key, value in each.fields.items()}
    return Settings(found[0].source, fields, found[0].method)


def settings_files(folder: Path) -> list[Path]:
    """Return the files beside config.json that tell of quantization."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def _of_config(folder: Path) -> Iterator[Settings]:
    """Yield the sections of config.json, and those of the models nested in it that are loaded."""
    for name, section in _nested(read_config(folder)):
        for key in _KEYS:
            if value := section.get(key):
                fields = value if isinstance(value, dict) else {}
                yield Settings(f"{folder / CONFIG}: {name}{key}", fields, _method(key, fields))


def _nested(config: Fields) -> Iterator[tuple[str, Fields]]:
    """Yield config.json's fields, and those of the models inside it, each with what its keys begin with."""
    left_out = {*_KEYS, *(f"{part}_config" for part in speech_parts(config))}
    left = [("", config)]
    while left:
        name, section = left.pop(0)
        yield name, section
        inner = {key: value for key, value in section.items() if key not in left_out}
        left += [
            (f"{name}{key}.", value) for key, value in inner.items() if isinstance(value, dict)
        ]


def _method(key: str, fields: Fields) -> str:
    named = fields.get("quant_method")
    if named is None and (fields.get("load_in_4bit") or fields.get("load_in_8bit")):
        return "bitsandbytes"
    if named is None and key == "compression_config":
        return "compressed-tensors"
    return named if isinstance(named, str) else ""


def _of_files(folder: Path) -> Iterator[Settings]:
    for file in settings_files(folder):
        fields = read_json_object(file)
        inner = fields.get("quantization")  # ModelOpt's
        if isinstance(inner, dict):
            fields = inner
        named = {_OLD_NAMES.get(key, key): value for key, value in fields.items()}
        yield Settings(str(file), named, str(named.get("quant_method") or _FILES[file.name]))


def _refuse_difference(first: Settings, other: Settings) -> None:
    if first.method != other.method:
        raise first.refusal(f"{other.source} says {other.method or 'no method'!r}")
    for key in ("bits", "group_size", "checkpoint_format", "quant_algo"):
        values = [settings.fields.get(key) for settings in (first, other)]
        if None not in values and values[0] != values[1]:
            raise first.refusal(f"{key} is {values[0]!r}, and {other.source} says {values[1]!r}")
