"""Rules of a client whose stream breaks before the first message: who is asked for what, and until when."""

import pytest

from pdserve import failover
from pdserve.errors import (
    DuplicateRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestError,
    UnavailableError,
)
from pdserve.failover import Resumption, Routers, is_broken
from pdserve.v1 import inference_pb2

ASKED = inference_pb2.GenerateRequest(text="x", request_id="r", resumable=True)
REREAD = inference_pb2.GenerateRequest(request_id="r", resume_from=7)
MARKED = ((failover.SENT_AGAIN, "1"),)
BROKEN = UnavailableError("Socket closed", reason=Reason.ROUTER_UNREACHABLE)
AWAY = UnavailableError(
    "failed to connect to all addresses; last error: refused", reason=Reason.ROUTER_UNREACHABLE
)
FORGOTTEN = NotFoundError("no resumable request r")
TOO_OLD = RequestError("messages before 9 are no longer kept", reason=Reason.NOT_RESUMABLE)
FULL = OverloadedError("full", retry_after_s=0.25)
OTHER_RUNS = DuplicateRequestError("request r is running")
GONE = UnavailableError("the router shuts down", reason=Reason.SHUTTING_DOWN)


def sent(
    routers: str = "a",
    asked: inference_pb2.GenerateRequest = ASKED,
    *,
    is_on: bool = True,
    has_answered: bool = False,
) -> Resumption[str]:
    """Return an answer of which nothing has come; its client `has_answered` calls before."""
    members = Routers([*routers])
    members.has_answered = has_answered
    return Resumption(asked, members, is_on=is_on)


def step(answer: Resumption[str], error: RequestError) -> str:
    """Return the router that gets the request after an error; in capitals if not as sent again."""
    answer.recover(error)
    assert answer.request == ASKED
    return answer.router if answer.metadata == MARKED else answer.router.upper()


@pytest.mark.parametrize(
    ("routers", "errors", "asked"),
    [
        ("a", [BROKEN, BROKEN, AWAY], ["a", "a", "a"]),
        ("a", [BROKEN, TOO_OLD, BROKEN, TOO_OLD], ["a", "A", "a", "A"]),
        ("ab", [BROKEN, AWAY, AWAY, TOO_OLD], ["b", "a", "b", "B"]),
        ("ab", [AWAY, BROKEN, TOO_OLD, BROKEN], ["B", "a", "A", "b"]),
        ("abc", [GONE, BROKEN, AWAY, TOO_OLD], ["B", "c", "a", "A"]),
    ],
    ids=["breaks", "keeps too little", "the first breaks", "the last breaks", "one shuts down"],
)
def test_after_a_break_the_routers_get_the_whole_request_as_sent_again(
    routers: str, errors: list[RequestError], asked: list[str]
) -> None:
    answer = sent(routers)
    assert [step(answer, error) for error in errors] == asked


def test_a_round_of_the_routers_has_a_pause_before_it_and_one_begun_anew_none() -> None:
    alone = sent()
    pauses = [alone.recover(error) for error in (BROKEN, TOO_OLD, BROKEN, BROKEN)]
    assert pauses == [0.05, 0.0, 0.1, 0.2]
    two = sent("ab")
    assert [two.recover(BROKEN) for _ in range(5)] == [0.0, 0.0, 0.1, 0.0, 0.2]


@pytest.mark.parametrize(
    ("routers", "errors"),
    [("a", [AWAY]), ("ab", [AWAY, AWAY]), ("a", [GONE]), ("ab", [AWAY, GONE]), ("a", [FULL])],
)
def test_a_request_that_reached_no_router_fails_when_each_was_tried(
    routers: str, errors: list[RequestError]
) -> None:
    answer = sent(routers)
    for error in errors[:-1]:
        assert answer.recover(error) == 0.0
    with pytest.raises(type(errors[-1])) as caught:
        answer.recover(errors[-1])
    assert caught.value is errors[-1]


def test_a_router_that_has_answered_before_is_waited_for() -> None:
    """gRPC tells the last of its own tries only, and the first may have reached the router."""
    assert step(sent(has_answered=True), AWAY) == "a"
    with pytest.raises(UnavailableError):
        sent(has_answered=True).recover(GONE)


@pytest.mark.parametrize(
    "answer",
    [
        sent(asked=inference_pb2.GenerateRequest(text="x", request_id="r")),
        sent(asked=inference_pb2.GenerateRequest(text="x", resumable=True)),
        sent(is_on=False),
    ],
    ids=["not resumable", "without an id", "switched off"],
)
def test_other_requests_are_not_asked_for(answer: Resumption[str]) -> None:
    with pytest.raises(UnavailableError) as caught:
        answer.recover(BROKEN)
    assert caught.value is BROKEN


@pytest.mark.parametrize("error", [FULL, OTHER_RUNS], ids=["full", "another of its id runs"])
def test_what_a_router_says_of_the_request_itself_ends_it(error: RequestError) -> None:
    answer = sent()
    answer.recover(BROKEN)
    with pytest.raises(type(error)):
        answer.recover(error)


def test_messages_that_not_even_a_running_request_keeps_end_it() -> None:
    answer = sent()
    assert [step(answer, error) for error in (BROKEN, TOO_OLD)] == ["a", "A"]
    with pytest.raises(RequestError) as caught:
        answer.recover(TOO_OLD)
    assert caught.value is TOO_OLD


def test_a_request_with_output_of_another_router_is_sent_again_with_it() -> None:
    asked = inference_pb2.GenerateRequest(text="x", request_id="r", resumable=True)
    asked.received.add(token_ids=[1, 2])
    answer = sent(asked=asked)
    answer.recover(BROKEN)
    assert (answer.request, answer.metadata) == (asked, MARKED)
    answer.note(inference_pb2.GenerateResponse(request_id="r", index=2, token_ids=[3]))
    assert answer.metadata == ()


def test_a_router_that_does_not_come_back_is_given_up_with_the_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = sent()
    answer.recover(BROKEN)
    monkeypatch.setattr(failover, "RESUME_WITHIN_S", -1.0)
    with pytest.raises(UnavailableError) as caught:
        answer.recover(AWAY)
    assert caught.value is BROKEN


def test_an_answer_that_is_read_again_is_asked_for_from_its_place_until_it_is_forgotten() -> None:
    answer = sent(asked=REREAD)
    assert answer.recover(BROKEN) is not None
    assert answer.request == REREAD
    with pytest.raises(NotFoundError):
        answer.recover(FORGOTTEN)


@pytest.mark.parametrize(
    ("routers", "errors", "asked"),
    [
        ("ab", [BROKEN, FORGOTTEN, AWAY, FORGOTTEN, AWAY], "babab"),
        ("ab", [BROKEN, TOO_OLD, BROKEN], "bab"),
        ("abc", [GONE, BROKEN, FORGOTTEN, FORGOTTEN], "bcab"),
    ],
    ids=["the first breaks", "the other is beyond it", "the second breaks"],
)
def test_an_answer_to_read_again_is_looked_for_at_the_router_that_broke(
    routers: str, errors: list[RequestError], asked: str
) -> None:
    answer = sent(routers, REREAD)
    for error, router in zip(errors, asked, strict=True):
        answer.recover(error)
        assert (answer.router, answer.request, answer.metadata) == (router, REREAD, ())


@pytest.mark.parametrize(
    ("routers", "errors"),
    [
        ("ab", [BROKEN, FORGOTTEN, FORGOTTEN]),
        ("ab", [BROKEN, FORGOTTEN, AWAY, FORGOTTEN, TOO_OLD]),
        ("ab", [AWAY, FORGOTTEN]),
        ("ab", [FORGOTTEN]),
    ],
    ids=["both", "after a restart", "no break", "at once"],
)
def test_an_answer_that_no_router_has_is_not_looked_for_any_longer(
    routers: str, errors: list[RequestError]
) -> None:
    answer = sent(routers, REREAD)
    for error in errors[:-1]:
        answer.recover(error)
    with pytest.raises(type(errors[-1])) as caught:
        answer.recover(errors[-1])
    assert caught.value is errors[-1]


def test_an_answer_to_read_again_is_looked_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = sent("ab", REREAD)
    answer.recover(BROKEN)
    monkeypatch.setattr(failover, "RESUME_WITHIN_S", -1.0)
    with pytest.raises(UnavailableError) as caught:
        answer.recover(FORGOTTEN)
    assert caught.value is BROKEN


def test_messages_that_come_then_are_followed_by_the_next() -> None:
    answer = sent("ab")
    assert [step(answer, error) for error in (BROKEN, BROKEN)] == ["b", "a"]
    answer.note(inference_pb2.GenerateResponse(request_id="r", sequence=0, token_ids=[7]))
    answer.recover(BROKEN)
    assert (answer.router, answer.request.resume_from) == ("a", 1)


@pytest.mark.parametrize(
    ("message", "reason", "expected"),
    [
        ("Socket closed", Reason.ROUTER_UNREACHABLE, True),
        ("keepalive watchdog timeout", Reason.ROUTER_UNREACHABLE, True),
        (AWAY.message, Reason.ROUTER_UNREACHABLE, False),
        ("DNS resolution failed for a:1", Reason.ROUTER_UNREACHABLE, False),
        ("Socket closed", Reason.NO_WORKER, False),
    ],
)
def test_a_call_that_was_never_sent_has_not_broken(
    message: str, reason: Reason, expected: bool
) -> None:
    assert is_broken(UnavailableError(message, reason=reason)) is expected
