"""Sampling defaults of the model's makers, from its generation_config.json.

Six keys of the file count, and no other, `do_sample` included (as with vLLM's `--generation-config
auto`). A value in a client's request always wins.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from common.engine.weights.folder import read_json_object
from common.telemetry.logs import get_logger
from pdserve.errors import SetupError
from pdserve.v1 import inference_pb2
from router.intake.sampling_ranges import RANGES, Range

_FILE = "generation_config.json"
_INTEGERS = {"top_k", "max_tokens"}
_FILE_NAMES = {"max_tokens": "max_new_tokens"}  # keys with another name in the file
_MAX_TOKENS = Range(1, 2**31 - 1)
_REMEDY = "Correct the file, or ignore it with router.generation_config: off"
_log = get_logger()


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Values for fields that a request does not set; None means the default for every model."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None

    @property
    def said(self) -> dict[str, float]:
        """Values that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_pb(self) -> inference_pb2.SamplingParams:
        """Return a message with these values alone."""
        return inference_pb2.SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k or 0,
            top_p=self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_tokens,
        )

    def fill(self, asked: inference_pb2.SamplingParams) -> inference_pb2.SamplingParams:
        """Return a client's message with these values in the fields that it does not set.

        `max_tokens` is left out: router/intake/job.py sets it from the room for an answer.
        """
        filled = self.to_pb()
        filled.ClearField("max_tokens")
        # unset fields do not override; a zero in a field without presence is unset
        filled.MergeFrom(asked)
        if asked.no_top_k:
            filled.top_k = asked.top_k
        if asked.no_min_p:
            filled.min_p = asked.min_p
        return filled


NO_DEFAULTS = SamplingDefaults()


def choose_sampling_defaults(model_dir: Path, choice: Literal["auto", "off"]) -> SamplingDefaults:
    """Return the model's defaults ("auto"), which are logged, or none ("off"). Raises SetupError."""
    if choice == "off":
        return NO_DEFAULTS
    defaults = read_sampling_defaults(model_dir)
    if defaults.said:
        # a warning, as in vLLM: measurements and comparisons of models depend on it
        _log.warning("sampling_defaults_of_the_model", **defaults.said)
    return defaults


def read_sampling_defaults(model_dir: Path) -> SamplingDefaults:
    """Return the defaults in the model's file.

    Raises SetupError with file and key for a value that no client may send.
    """
    file = model_dir / _FILE
    said = read_json_object(file)
    values: dict[str, float] = {}
    for field in fields(SamplingDefaults):
        key = _FILE_NAMES.get(field.name, field.name)
        if (value := said.get(key)) is not None:
            values[field.name] = _check(field.name, value, f"{file}: {key}")
    return SamplingDefaults(**values)  # type: ignore[arg-type]  # _check tells integers apart


def _check(name: str, value: object, place: str) -> float:
    allowed = RANGES.get(name, _MAX_TOKENS)
    if name == "top_k" and value == -1:  # by convention: all tokens
        return 0
    is_integer = name in _INTEGERS
    if type(value) is int or (type(value) is float and not is_integer):
        if value in allowed and _as_sent(name, value) in allowed:
            return value
        raise SetupError(f"{place} is {value!r}, which is not in {allowed}", _REMEDY)
    kind = "an integer" if is_integer else "a number"
    raise SetupError(f"{place} is {value!r}, not {kind} in {allowed}", _REMEDY)


def _as_sent(name: str, value: float) -> float:
    """Return the value in the message's precision, in which every request is checked again."""
    message = inference_pb2.SamplingParams(**{name: value})  # type: ignore[arg-type]  # a field's name
    return float(getattr(message, name))
