"""Output that a client has, and the request with which another router goes on."""

import pytest

from pdserve.errors import InternalError
from pdserve.received import OutputSoFar
from pdserve.v1 import inference_pb2

Request = inference_pb2.GenerateRequest
Response = inference_pb2.GenerateResponse
Sampling = inference_pb2.SamplingParams
Part = inference_pb2.ReceivedOutput
USED = Sampling(temperature=0.5, seed=0, max_tokens=9, top_p=0.25, no_top_k=True)
END = inference_pb2.Finished(reason=inference_pb2.FINISH_REASON_STOP)


def asked(**sampling: int) -> Request:
    return Request(text="x", request_id="r", resumable=True, sampling=Sampling(**sampling))  # type: ignore[arg-type]


def test_the_rest_is_asked_for_with_the_tokens_and_the_values_in_use() -> None:
    request = asked(n=2, top_k=3)
    output = OutputSoFar(request)
    output.add(Response(token_ids=[1, 2], sampling=USED))
    output.add(Response(choice=1, token_ids=[7], finished=END))
    output.add(Response(token_ids=[3], index=2))
    rest = output.ask_for_rest()
    assert rest is not None
    assert list(rest.received) == [Part(token_ids=[1, 2, 3]), Part(choice=1, finished=True)]
    assert (rest.text, rest.request_id, rest.resumable) == ("x", "r", True)
    sampling = rest.sampling
    assert (sampling.n, sampling.seed, sampling.max_tokens) == (2, 0, 9)
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.25)
    assert not request.received, "the client's own request is not changed"
    assert not request.sampling.HasField("seed")


def test_it_goes_on_behind_what_the_request_itself_had() -> None:
    request = asked()
    request.received.add(token_ids=[1, 2])
    output = OutputSoFar(request)
    output.add(Response(token_ids=[3], index=2, sampling=USED))
    rest = output.ask_for_rest()
    assert rest is not None
    assert list(rest.received) == [Part(token_ids=[1, 2, 3])]
    assert list(request.received) == [Part(token_ids=[1, 2])]


def test_a_router_that_does_not_say_what_it_used_leaves_no_way_on() -> None:
    output = OutputSoFar(asked())
    output.add(Response(token_ids=[1]))
    assert output.ask_for_rest() is None


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_token_that_comes_twice_or_is_missing_ends_the_answer(index: int) -> None:
    output = OutputSoFar(asked())
    output.add(Response(token_ids=[1, 2]))
    with pytest.raises(InternalError, match=f"token 2 was to come, and {index} came"):
        output.add(Response(token_ids=[3], index=index))


def test_an_answer_is_whole_when_every_choice_has_ended() -> None:
    output = OutputSoFar(asked(n=2))
    output.add(Response(choice=1, token_ids=[1], finished=END))
    assert not output.is_whole
    output.add(Response(token_ids=[1]))
    assert not output.is_whole
    output.add(Response(index=1, finished=END))
    assert output.is_whole
