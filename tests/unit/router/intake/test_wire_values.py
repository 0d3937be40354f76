import json

import pytest

from router.intake.wire_values import json_object, to_int32


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, 0), (-7, -7), (2**31 - 1, 2**31 - 1), (2**70, 2**31 - 1), (-(2**70), -(2**31))],
)
def test_a_number_that_does_not_fit_is_out_of_range_on_the_wire_too(
    number: int, expected: int
) -> None:
    assert to_int32(number) == expected


def test_any_json_object_is_the_schema_of_an_object() -> None:
    assert json.loads(json_object().json_schema) == {"type": "object"}
