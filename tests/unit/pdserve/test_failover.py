"""Rules of a client with several routers, and of one whose stream breaks."""

import pytest

from pdserve import failover
from pdserve.errors import (
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    Reason,
    RequestError,
    UnavailableError,
)
from pdserve.failover import Deadline, Resumption, Routers, can_go_elsewhere, split_addresses
from pdserve.v1 import inference_pb2

BROKEN = UnavailableError("the connection broke", reason=Reason.ROUTER_UNREACHABLE)


def test_addresses_come_as_a_text_or_a_list() -> None:
    assert split_addresses("a:1") == ["a:1"]
    assert split_addresses("a:1, b:2,c:3") == ["a:1", "b:2", "c:3"]
    assert split_addresses(["a:1", "b:2"]) == ["a:1", "b:2"]


@pytest.mark.parametrize("nothing", ["", [], "a:1,", ["a:1", ""]])
def test_an_address_that_is_missing_is_named(nothing: str | list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="names no router"):
        split_addresses(nothing)


def test_calls_stay_with_the_router_that_answered_last() -> None:
    routers = Routers(["a", "b", "c"])
    assert next(routers.in_turn()) == "a"
    turn = routers.in_turn()
    assert (next(turn), next(turn)) == ("a", "b")  # a failed, b answered
    assert routers.present == "b"
    assert list(routers.in_turn()) == ["b", "c", "a"]


@pytest.mark.parametrize("reason", Reason)
def test_another_router_helps_where_the_router_itself_is_the_cause(reason: Reason) -> None:
    helps = {Reason.ROUTER_UNREACHABLE, Reason.SHUTTING_DOWN}
    assert can_go_elsewhere(UnavailableError("x", reason=reason)) == (reason in helps)
    assert not can_go_elsewhere(OverloadedError("x", retry_after_s=1.0))


def test_a_deadline_is_never_less_than_grpc_takes() -> None:
    assert Deadline(None).left_s is None
    left_s = Deadline(-1.0).left_s
    assert left_s is not None
    assert left_s > 0


def begun(*, resumable: bool = True, is_on: bool = True) -> Resumption:
    request = inference_pb2.GenerateRequest(text="x", request_id="r", resumable=resumable)
    resumption = Resumption(request, is_on=is_on)
    resumption.note(inference_pb2.GenerateResponse(sequence=4))
    return resumption


def test_a_break_is_followed_by_the_rest() -> None:
    resumption = begun()
    pauses = [resumption.pause_s(BROKEN) for _ in range(7)]
    assert resumption.request == inference_pb2.GenerateRequest(request_id="r", resume_from=5)
    assert pauses == sorted(pauses)
    resumption.note(inference_pb2.GenerateResponse(sequence=5))
    assert resumption.pause_s(BROKEN) == pauses[0], "the next break begins anew"
    assert resumption.request.resume_from == 6


def test_a_resumed_stream_is_read_on_too() -> None:
    asked = inference_pb2.GenerateRequest(request_id="r", resume_from=0)
    resumption = Resumption(asked, is_on=True)
    resumption.note(inference_pb2.GenerateResponse(sequence=0))
    resumption.pause_s(BROKEN)
    assert resumption.request.resume_from == 1


@pytest.mark.parametrize(
    "resumption",
    [
        begun(resumable=False),
        begun(is_on=False),
        Resumption(inference_pb2.GenerateRequest(text="x", resumable=True), is_on=True),
    ],
    ids=["not resumable", "switched off", "nothing came"],
)
def test_other_breaks_are_raised(resumption: Resumption) -> None:
    with pytest.raises(UnavailableError) as caught:
        resumption.pause_s(BROKEN)
    assert caught.value is BROKEN


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("the router shut down", reason=Reason.SHUTTING_DOWN),
        OverloadedError("too slow", retry_after_s=1.0, reason=Reason.SLOW_CONSUMER),
    ],
)
def test_an_end_that_the_router_tells_is_no_break(error: RequestError) -> None:
    with pytest.raises(type(error)) as caught:
        begun().pause_s(error)
    assert caught.value is error


def test_a_router_that_forgot_the_request_leaves_the_break_to_be_raised() -> None:
    resumption = begun()
    resumption.pause_s(BROKEN)
    with pytest.raises(UnavailableError) as caught:
        resumption.pause_s(NotFoundError("no resumable request r"))
    assert caught.value is BROKEN


def test_a_router_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resumption = begun()
    resumption.pause_s(BROKEN)
    monkeypatch.setattr(failover, "RESUME_WITHIN_S", -1.0)
    with pytest.raises(UnavailableError):
        resumption.pause_s(BROKEN)
