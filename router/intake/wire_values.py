"""Values of other APIs as pdserve.v1's messages hold them."""

import json

from pdserve.v1 import inference_pb2

_MIN_INT32, _MAX_INT32 = -(2**31), 2**31 - 1
_JSON_OBJECT = json.dumps({"type": "object"})


def to_int32(number: int) -> int:
    """Bring a number into the range of the wire; what does not fit is out of range in both."""
    return max(_MIN_INT32, min(number, _MAX_INT32))


def json_object() -> inference_pb2.StructuredOutput:
    """Return the form of an output that is any JSON object."""
    return inference_pb2.StructuredOutput(json_schema=_JSON_OBJECT)
