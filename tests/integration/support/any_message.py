"""Requests for the clients' services, made from descriptors: arbitrary ones and malformed ones."""

import math
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from pdserve.v1 import inference_pb2

SERVICES = [
    inference_pb2.DESCRIPTOR.services_by_name["Inference"],
    vllm_pb2.DESCRIPTOR.services_by_name["VllmEngine"],
]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
_MAX_FIELDS, _MAX_REPEATED = 3, 3  # fields set in a message, entries of a field
_LENGTH_DELIMITED = 2

_FLOATS = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 0.5, 1.0, 3e38]) | st.floats(
    width=32
)
_TEXTS = st.sampled_from(
    ["", "tiny", "user", "assistant", "\x00", "é" * 300, "x" * 20_000]
) | st.text(max_size=12)


def _integers(bits: int, *, is_signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    return st.sampled_from([low, -1 if is_signed else 0, 0, 1, 2, high]) | st.integers(low, high)


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: _integers(32, is_signed=True),
    FieldDescriptor.CPPTYPE_INT64: _integers(64, is_signed=True),
    FieldDescriptor.CPPTYPE_UINT32: _integers(32, is_signed=False),
    FieldDescriptor.CPPTYPE_UINT64: _integers(64, is_signed=False),
    FieldDescriptor.CPPTYPE_ENUM: _integers(32, is_signed=True),
    FieldDescriptor.CPPTYPE_DOUBLE: _FLOATS,
    FieldDescriptor.CPPTYPE_FLOAT: _FLOATS,
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def path(method: MethodDescriptor) -> str:
    """Return the method's path in gRPC."""
    return f"/{method.containing_service.full_name}/{method.name}"


@st.composite
def any_message(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """Draw a message with a few fields set to any values of their types, oneofs even twice."""
    message = GetMessageClass(descriptor)()
    if descriptor.fields:
        number = st.sampled_from(range(len(descriptor.fields)))
        for chosen in draw(st.lists(number, max_size=_MAX_FIELDS, unique=True)):
            _set(draw, message, descriptor.fields[chosen])
    return message


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor) -> None:
    times = draw(st.integers(0, _MAX_REPEATED)) if field.is_repeated else 1
    for _ in range(times):
        if field.message_type is not None and _is_map(field.message_type):
            key, value = (draw(_values(f)) for f in field.message_type.fields)
            entries = getattr(message, field.name)
            if isinstance(value, Message):
                entries[key].CopyFrom(value)
            else:
                entries[key] = value
        elif field.is_repeated:
            getattr(message, field.name).append(draw(_values(field)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(_values(field)))
        else:
            setattr(message, field.name, draw(_values(field)))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return any_message(field.message_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=12)
    return _SCALARS.get(field.cpp_type, _TEXTS)


def _is_map(descriptor: Descriptor) -> bool:
    return descriptor.GetOptions().map_entry


def texts_of(descriptor: Descriptor) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Yield the path to each text field of a message, including those in maps and oneofs."""
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (field,)
        elif field.message_type is not None:
            yield from ((field, *rest) for rest in texts_of(field.message_type))


def serialize(way: tuple[FieldDescriptor, ...], value: bytes) -> bytes:
    """Return a message with this value alone, which need not match the field's type."""
    for field in reversed(way):
        key = _varint(field.number << 3 | _LENGTH_DELIMITED)
        value = key + _varint(len(value)) + value
    return value


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
