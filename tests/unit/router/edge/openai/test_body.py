import pytest

from pdserve.errors import InvalidRequestError
from router.edge.openai.body import parse_json


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "Infinity is not a JSON number"),
        (b'{"a": 1, "a": 1}', "stands twice"),
        (b'{"a": {"b": 1, "b": 2}}', "stands twice"),
        (b"\xff\xfe", "not UTF-8"),
        (b'"\\ud800"', "half a surrogate"),
        (b'{"\\udfff": 1}', "half a surrogate"),
        (b"[" * 65 + b"]" * 65, "nested more than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64"),
        (b"[" * 100_000, "nested more than 64"),
        (b"1" * 5000, "is no JSON"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, null, "\xc3\xa9"]}', {"a": [1, 2.5, None, "é"]}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b"[" * 64 + b"]" * 64, None),
        (b'"[[[[{{{{' + b"[" * 100 + b'"', "[[[[{{{{" + "[" * 100),
    ],
)
def test_json_is_taken_by_the_letter(body: bytes, value: object) -> None:
    parsed = parse_json(body)
    assert value is None or parsed == value
