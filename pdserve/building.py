"""Messages of pdserve.v1 made of a caller's values: what a field cannot hold is refused by its name."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from pdserve.errors import InvalidRequestError

M = TypeVar("M", bound=Message)

_MAX_SECONDS = 1e9  # gRPC takes much longer ones for times that have passed


def build(kind: type[M], values: Mapping[str, object], path: str = "") -> M:
    """Return a message with these values; None leaves a field unset. Mappings make nested messages.

    `path` stands before the names of fields in errors. Raises InvalidRequestError.
    """
    message = kind()
    for name, value in values.items():
        if value is not None:
            message.MergeFrom(_of_one(kind, name, value, path))
    return message


def to_seconds(name: str, seconds: object) -> float:
    """Return a time that gRPC can wait; years instead of infinity. Raises InvalidRequestError."""
    number = math.nan
    if isinstance(seconds, Real):
        try:
            number = float(seconds)
        except OverflowError:
            number = math.inf
    if math.isnan(number):
        raise InvalidRequestError(f"{seconds!r:.40} is no number of seconds", field=name)
    return min(number, _MAX_SECONDS)


def check_text(name: str, value: object) -> None:
    """Raise InvalidRequestError for what is no text that can be sent."""
    if not isinstance(value, str):
        raise _wrong_type(value, name, "a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _half_a_character(error, name) from error


def _of_one(kind: type[M], name: str, value: object, path: str) -> M:
    """Return a message with one field set."""
    field = cast("Field | None", kind.DESCRIPTOR.fields_by_name.get(str(name)))
    path += str(name)
    if field is None:
        raise InvalidRequestError(f"{kind.DESCRIPTOR.name} has no such field", field=path)
    if isinstance(value, bool) and not _takes_bool(field):
        raise _wrong_type(value, path)
    if isinstance(value, str | bytes) and field.is_repeated:
        raise _wrong_type(value, path, "a list")
    if isinstance(value, Mapping) and _is_message(field):
        nested = type(getattr(kind(), field.name))
        value = build(nested, value, f"{path}.")
    try:
        return kind(**{field.name: value})
    except UnicodeEncodeError as error:
        raise _half_a_character(error, path) from error
    except TypeError as error:
        raise _wrong_type(value, path) from error
    except (ValueError, ArithmeticError, RuntimeError) as error:
        raise InvalidRequestError(str(error), field=path) from error


def _takes_bool(field: Field) -> bool:
    return field.cpp_type == Field.CPPTYPE_BOOL


def _is_message(field: Field) -> bool:
    kind = field.message_type
    return kind is not None and not kind.GetOptions().map_entry and not field.is_repeated


def _wrong_type(value: object, path: str, wanted: str = "") -> InvalidRequestError:
    needs = f", {wanted} is wanted" if wanted else ""
    given = type(value).__name__
    return InvalidRequestError(f"cannot hold what was given (type {given}){needs}", field=path)


def _half_a_character(error: UnicodeEncodeError, path: str) -> InvalidRequestError:
    message = f"half a character (a surrogate) at position {error.start} cannot be sent"
    return InvalidRequestError(message, field=path)
