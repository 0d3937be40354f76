"""Settings that are a number, or `auto`: chosen by the engine when it starts."""

from typing import Annotated, Literal

from pydantic import GetPydanticSchema
from pydantic_core import CoreSchema, core_schema

Auto = Literal["auto"]


def _or_auto(number: CoreSchema, text: str) -> GetPydanticSchema:
    """Let a field take `number` or "auto"; anything else is one error, not one for each kind."""
    kinds = core_schema.union_schema(
        [core_schema.literal_schema(["auto"]), number],
        custom_error_type="number_or_auto",
        custom_error_message=f"Input should be 'auto' or {text}",
    )
    return GetPydanticSchema(lambda source, handler: kinds)


AutoCount = Annotated[
    int | Auto, _or_auto(core_schema.int_schema(ge=1), "a whole number of at least 1")
]
AutoContext = Annotated[  # a start measures steps of a few tokens
    int | Auto, _or_auto(core_schema.int_schema(ge=16), "a whole number of at least 16")
]
AutoSize = Annotated[
    float | Auto,
    _or_auto(core_schema.float_schema(gt=0, allow_inf_nan=False), "a number greater than 0"),
]
