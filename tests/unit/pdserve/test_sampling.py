import pytest

import pdserve
from pdserve.errors import InvalidRequestError
from pdserve.prompts import make_request
from pdserve.v1 import inference_pb2


def test_the_builder_makes_the_message() -> None:
    built = pdserve.SamplingParams(max_tokens=4, stop=["a"], logit_bias={3: 1.5}, seed=None)
    wanted = inference_pb2.SamplingParams(max_tokens=4, stop=["a"], logit_bias={3: 1.5})
    assert built == wanted
    assert isinstance(built, inference_pb2.SamplingParams)
    assert isinstance(built, pdserve.SamplingParams)
    assert not isinstance(inference_pb2.TokenPrompt(), pdserve.SamplingParams)
    assert pdserve.SamplingParams.FromString(built.SerializeToString()) == built


def test_a_mapping_does_for_sampling_and_its_parts() -> None:
    values = {"top_k": 3, "structured_output": {"choice": {"texts": ["a", "b"]}}}
    request = make_request("x", values, "")
    choice = inference_pb2.Choice(texts=["a", "b"])
    form = inference_pb2.StructuredOutput(choice=choice)
    assert request.sampling == inference_pb2.SamplingParams(top_k=3, structured_output=form)


def test_a_field_that_is_set_to_zero_is_set() -> None:
    assert pdserve.SamplingParams(seed=0, temperature=0).HasField("seed")
    assert pdserve.SamplingParams(temperature=0).HasField("temperature")


def test_the_message_says_what_is_wrong() -> None:
    with pytest.raises(InvalidRequestError, match=r"half a character .* at position 1"):
        pdserve.SamplingParams(stop=["a\ud800"])
    with pytest.raises(InvalidRequestError, match=r"type str\), a list is wanted"):
        pdserve.SamplingParams(stop="abc")
    with pytest.raises(InvalidRequestError, match="out of range: 4294967296"):
        pdserve.SamplingParams(top_k=2**32)
    with pytest.raises(InvalidRequestError, match="SamplingParams has no such field"):
        pdserve.SamplingParams(warmth=1)  # type: ignore[call-arg]
