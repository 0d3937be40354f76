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

FULL = OverloadedError("full", retry_after_s=0.25)
GONE = UnavailableError("the router shuts down", reason=Reason.SHUTTING_DOWN)
FORGOTTEN = NotFoundError("no resumable request r")
SAMPLING = inference_pb2.SamplingParams(seed=3)
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


def test_streams_that_lose_the_same_router_go_to_the_same_next_one() -> None:
    routers = Routers(["a", "b", "c"])
    assert [routers.after("a"), routers.after("a")] == ["b", "b"]
    assert [routers.after("b"), routers.after("c")] == ["c", "a"]


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


def begun(
    *,
    resumable: bool = True,
    is_on: bool = True,
    routers: str = "a",
    sampling: inference_pb2.SamplingParams | None = None,
) -> Resumption[str]:
    """Return an answer of which a token has come, as message number 4."""
    request = inference_pb2.GenerateRequest(text="x", request_id="r", resumable=resumable)
    resumption = Resumption(request, Routers([*routers]), is_on=is_on)
    resumption.note(
        inference_pb2.GenerateResponse(sequence=4, token_ids=[7], sampling=sampling, request_id="r")
    )
    return resumption


def step(resumption: Resumption[str], error: RequestError) -> str:
    """Return the router that is asked after an error, and if it is asked for the REST or a resumption."""
    resumption.recover(error)
    is_rest = bool(resumption.request.received)
    assert is_rest != resumption.request.HasField("resume_from")
    return resumption.router.upper() if is_rest else resumption.router


def test_a_break_is_followed_by_the_rest() -> None:
    resumption = begun()
    pauses = [resumption.recover(BROKEN) or 0.0 for _ in range(7)]
    assert resumption.request == inference_pb2.GenerateRequest(request_id="r", resume_from=5)
    assert pauses == sorted(pauses)
    resumption.note(inference_pb2.GenerateResponse(sequence=5, index=1))
    assert resumption.recover(BROKEN) == pauses[0], "the next break begins anew"
    assert resumption.request.resume_from == 6


def test_a_resumed_stream_is_read_on_too() -> None:
    asked = inference_pb2.GenerateRequest(request_id="r", resume_from=0)
    resumption = Resumption(asked, Routers(["a", "b"]), is_on=True)
    resumption.note(inference_pb2.GenerateResponse(sequence=0))
    assert [step(resumption, BROKEN) for _ in range(3)] == ["a", "a", "a"], "nobody else has it"
    assert resumption.request.resume_from == 1


def test_each_router_gets_a_request_of_which_nothing_has_come_once() -> None:
    request = inference_pb2.GenerateRequest(text="x", resumable=True)
    resumption = Resumption(request, Routers(["a", "b", "c"]), is_on=False)
    for router, error in (("b", BROKEN), ("c", GONE)):
        assert resumption.recover(error) == 0.0
        assert (resumption.router, resumption.request) == (router, request)
    with pytest.raises(UnavailableError) as caught:
        resumption.recover(BROKEN)
    assert caught.value is BROKEN


@pytest.mark.parametrize(
    "resumption",
    [
        begun(resumable=False),
        begun(is_on=False),
    ],
    ids=["not resumable", "switched off"],
)
def test_other_breaks_are_raised(resumption: Resumption[str]) -> None:
    with pytest.raises(UnavailableError) as caught:
        resumption.recover(BROKEN)
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
        begun().recover(error)
    assert caught.value is error


def test_a_router_that_forgot_the_request_leaves_the_break_to_be_raised() -> None:
    resumption = begun()
    resumption.recover(BROKEN)
    with pytest.raises(UnavailableError) as caught:
        resumption.recover(FORGOTTEN)
    assert caught.value is BROKEN


def test_a_router_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resumption = begun()
    resumption.recover(BROKEN)
    monkeypatch.setattr(failover, "RESUME_WITHIN_S", -1.0)
    with pytest.raises(UnavailableError):
        resumption.recover(BROKEN)


@pytest.mark.parametrize(
    ("routers", "errors", "asked"),
    [
        ("ab", [BROKEN, BROKEN, BROKEN, BROKEN], ["a", "B", "a", "B"]),
        ("abc", [BROKEN] * 4, ["a", "B", "C", "a"]),
        ("ab", [GONE, BROKEN, BROKEN], ["B", "A", "B"]),
        ("ab", [BROKEN, FORGOTTEN, BROKEN], ["a", "A", "B"]),
        ("ab", [BROKEN, BROKEN, FULL], ["a", "B", "a"]),
        ("a", [BROKEN, BROKEN, FORGOTTEN, BROKEN], ["a", "a", "A", "A"]),
        ("a", [GONE, GONE], ["A", "A"]),
    ],
    ids=["dies", "two die", "shuts down", "forgot", "others are full", "restarts", "alone"],
)
def test_a_router_with_what_is_missing_is_asked_first_and_then_each_for_the_rest(
    routers: str, errors: list[RequestError], asked: list[str]
) -> None:
    resumption = begun(routers=routers, sampling=SAMPLING)
    assert [step(resumption, error) for error in errors] == asked


def test_after_a_message_of_the_next_router_that_one_has_what_is_missing() -> None:
    resumption = begun(routers="ab", sampling=SAMPLING)
    assert [step(resumption, BROKEN), step(resumption, BROKEN)] == ["a", "B"]
    resumption.note(inference_pb2.GenerateResponse(sequence=0, index=1, token_ids=[8]))
    assert step(resumption, BROKEN) == "b"
    assert resumption.request.resume_from == 1
    assert step(resumption, BROKEN) == "A"
    assert list(resumption.request.received[0].token_ids) == [7, 8]


def test_a_full_router_says_when_to_come_and_is_not_asked_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resumption = begun(routers="ab", sampling=SAMPLING)
    assert [step(resumption, BROKEN), step(resumption, BROKEN)] == ["a", "B"]
    assert resumption.recover(FULL) == FULL.retry_after_s
    monkeypatch.setattr(failover, "RESUME_WITHIN_S", 0.2)
    with pytest.raises(OverloadedError):
        resumption.recover(FULL)


def test_a_break_behind_the_last_message_ends_the_answer_well() -> None:
    resumption = begun(sampling=SAMPLING)
    end = inference_pb2.Finished(reason=inference_pb2.FINISH_REASON_STOP)
    resumption.note(inference_pb2.GenerateResponse(sequence=5, index=1, finished=end))
    assert resumption.recover(BROKEN) is None
