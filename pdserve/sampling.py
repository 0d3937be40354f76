"""Sampling options of a client, checked as they are built."""

from pdserve.building import build
from pdserve.v1 import inference_pb2


class _Checked(type):
    """Makes a class stand for a message, whose own type cannot be subclassed."""

    def __call__(cls, **values: object) -> inference_pb2.SamplingParams:
        return build(inference_pb2.SamplingParams, values, "sampling.")

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, inference_pb2.SamplingParams)

    def __getattr__(cls, name: str) -> object:
        return getattr(inference_pb2.SamplingParams, name)


class SamplingParams(metaclass=_Checked):
    """Builds `pdserve.v1.SamplingParams`. Raises InvalidRequestError with the name of the field."""
