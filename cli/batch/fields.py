"""Sampling fields from JSON, with the names and types of `SamplingParams`; others are refused."""

import json
from collections.abc import Callable, Mapping

from google.protobuf.descriptor import FieldDescriptor

from cli.sampling import say_zeros
from pdserve.v1 import inference_pb2

_FORM = "structured_output"
_FIELDS = inference_pb2.SamplingParams.DESCRIPTOR.fields_by_name
SAMPLING_KEYS = frozenset(_FIELDS)
_TEXTS = {"stop", "bad_words"}  # a single text may stand for a list of one
# pairs of fields: setting one switches the other off
_OPPOSITES = {"top_k": "no_top_k", "min_p": "no_min_p"}

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}


class FieldError(ValueError):
    """A value that its field cannot have; the message names the field."""

    def __init__(self, name: str, expected: str, value: object) -> None:
        super().__init__(f"{name} must be {expected}, not {json.dumps(value, ensure_ascii=False)}")


def apply_fields(sampling: inference_pb2.SamplingParams, values: Mapping[str, object]) -> None:
    """Set these fields, replacing earlier values; null changes nothing.

    Raises ValueError that names the field.
    """
    said = {name: value for name, value in values.items() if value is not None}
    for name, opposite in _OPPOSITES.items():
        if said.keys() & {name, opposite}:
            sampling.ClearField(name)  # type: ignore[arg-type]  # names of fields
            sampling.ClearField(opposite)  # type: ignore[arg-type]
    for name, value in said.items():
        sampling.ClearField(name)  # type: ignore[arg-type]
        try:
            _set(sampling, name, value)
        except FieldError:
            raise
        except ValueError as error:  # protobuf: outside the type's range, or half a character
            raise ValueError(f"{name}: {error}") from error
    say_zeros(sampling, {name for name, value in said.items() if value == 0})


def as_integer(name: str, value: object) -> int:
    """Return the value if it is an integer; raise FieldError if not."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(name, "an integer", value)
    return value


def as_number(name: str, value: object) -> float:
    """Return the value if it is a number; raise FieldError if not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(name, "a number", value)
    return value


def as_text(name: str, value: object) -> str:
    """Return the value if it is a text; raise FieldError if not."""
    if not isinstance(value, str):
        raise FieldError(name, "a text", value)
    return value


def as_bool(name: str, value: object) -> bool:
    """Return the value if it is true or false; raise FieldError if not."""
    if not isinstance(value, bool):
        raise FieldError(name, "true or false", value)
    return value


def as_list(name: str, value: object) -> list[object]:
    """Return the value if it is a list; raise FieldError if not."""
    if not isinstance(value, list):
        raise FieldError(name, "a list", value)
    return value


def as_object(name: str, value: object) -> dict[str, object]:
    """Return the value if it is an object; raise FieldError if not."""
    if not isinstance(value, dict):
        raise FieldError(name, "an object", value)
    return value


def refuse_unknown(values: Mapping[str, object], known: frozenset[str], prefix: str = "") -> None:
    """Raise ValueError that names the first unknown key."""
    for name in values:
        if name not in known:
            raise ValueError(f"unknown key '{prefix}{name}'")


def _set(sampling: inference_pb2.SamplingParams, name: str, value: object) -> None:
    field = _FIELDS[name]
    if name == _FORM:
        sampling.structured_output.CopyFrom(_read_form(value))
    elif name == "logit_bias":
        for key, bias in as_object(name, value).items():
            if not (key.isascii() and key.isdecimal()):
                raise ValueError(f"'{key}' is no token id")
            sampling.logit_bias[int(key)] = as_number(name, bias)
    elif field.is_repeated:
        entries = [value] if name in _TEXTS and isinstance(value, str) else as_list(name, value)
        check = _checker(field)
        getattr(sampling, name).extend(check(name, entry) for entry in entries)
    else:
        setattr(sampling, name, _checker(field)(name, value))


def _checker(field: FieldDescriptor) -> Callable[[str, object], object]:
    if field.cpp_type in _INTEGERS:
        return as_integer
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return as_number
    return as_bool if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else as_text


def _read_form(value: object) -> inference_pb2.StructuredOutput:
    """Read an object with exactly one of these keys, beside which "strict_formats" may stand:

    {"json_schema": TEXT or SCHEMA}, {"regex": TEXT}, {"grammar": TEXT}, {"choice": [TEXT, ...]}
    """
    form = inference_pb2.StructuredOutput()
    said = dict(as_object(_FORM, value))
    refuse_unknown(said, frozenset(form.DESCRIPTOR.fields_by_name), f"{_FORM}.")
    if (is_strict := said.pop("strict_formats", None)) is not None:
        form.strict_formats = as_bool(f"{_FORM}.strict_formats", is_strict)
    if len(said) != 1:
        raise ValueError("needs exactly one of json_schema, regex, grammar and choice")
    ((kind, content),) = said.items()
    name = f"{_FORM}.{kind}"
    if kind == "choice":
        form.choice.texts.extend(as_text(name, text) for text in as_list(name, content))
    elif kind == "json_schema" and isinstance(content, dict | bool):
        form.json_schema = json.dumps(content, ensure_ascii=False)
    else:
        setattr(form, kind, as_text(name, content))
    return form
