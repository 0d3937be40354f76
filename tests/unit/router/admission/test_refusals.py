from structlog.testing import capture_logs

from pdserve.errors import InvalidRequestError, NotFoundError, Reason
from router.access.tenant import RequestKey, Tenant
from router.admission.refusals import Refusals

MARKER = "what the user said"


def test_refusals_are_counted_by_reason_and_the_reasons_are_a_closed_set() -> None:
    refusals = Refusals()
    assert refusals.by_reason == dict.fromkeys(Reason, 0)
    key = RequestKey(Tenant("acme"), "r")
    refusals.note(key, InvalidRequestError("no", field="top_p"))
    refusals.note(key, InvalidRequestError("no", reason=Reason.EMPTY_PROMPT))
    refusals.note(key, InvalidRequestError("no", reason=Reason.EMPTY_PROMPT))
    found = {reason: number for reason, number in refusals.by_reason.items() if number}
    assert found == {Reason.INVALID_FIELD: 1, Reason.EMPTY_PROMPT: 2}
    assert refusals.total == 3


def test_a_line_names_the_request_and_the_reason_and_quotes_nothing() -> None:
    error = NotFoundError(f"no model {MARKER}", reason=Reason.MODEL_NOT_FOUND, field=MARKER)
    with capture_logs() as lines:
        Refusals().note(RequestKey(Tenant("acme"), "mine"), error)
        Refusals().note(RequestKey(Tenant("acme"), MARKER * 100), error)
    assert [line["request_id"] for line in lines] == ["mine", ""]
    expected = {
        "event": "request_ended",
        "log_level": "info",
        "request_id": "mine",
        "tenant": "acme",
        "outcome": "rejected",
        "reason": "MODEL_NOT_FOUND",
    }
    assert lines[0] == expected
    assert MARKER not in str(lines)


def test_a_storm_of_refusals_is_counted_and_not_written() -> None:
    refusals, error = Refusals(), InvalidRequestError("no")
    with capture_logs() as lines:
        for number in range(10_000):
            refusals.note(RequestKey(Tenant("acme"), str(number)), error)
    assert refusals.total == 10_000
    assert len(lines) < 10_000
