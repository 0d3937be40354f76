"""Output that a client says that it has: what is taken, and what is refused by name."""

import pytest

from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from router.intake.generation_config import SamplingDefaults
from router.intake.job import Limits, parse_request
from router.intake.received import NOTHING
from router.intake.sampling import values_in_use
from router.intake.tokenizer import Tokenizer
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

Request = inference_pb2.GenerateRequest
Part = inference_pb2.ReceivedOutput
Sampling = inference_pb2.SamplingParams
LIMITS = Limits("tiny", VOCAB_SIZE, max_context_tokens=100, kv_capacity_tokens=80)
INVALID, VOCABULARY = Reason.INVALID_FIELD, Reason.TOKEN_OUT_OF_VOCABULARY
SEEDED = Sampling(seed=1, max_tokens=4, n=2)
BAD = {
    "no such choice": ([Part(choice=2)], INVALID, "received.choice"),
    "largest choice": ([Part(choice=2**32 - 1)], INVALID, "received.choice"),
    "choice twice": ([Part(), Part(token_ids=[1])], INVALID, "received.choice"),
    "all tokens": ([Part(token_ids=[1] * 4)], INVALID, "received.token_ids"),
    "more tokens, ended": ([Part(token_ids=[1] * 5, finished=True)], INVALID, "received.token_ids"),
    "unknown token": ([Part(token_ids=[1, VOCAB_SIZE])], VOCABULARY, "received.token_ids"),
    "unknown token, ended": (
        [Part(token_ids=[2**32 - 1], finished=True)],
        VOCABULARY,
        "received.token_ids",
    ),
    "nothing left": (
        [Part(finished=True), Part(choice=1, finished=True)],
        INVALID,
        "received.finished",
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_folder(tmp_path_factory.mktemp("model")))


def request(*parts: Part, sampling: Sampling = SEEDED) -> Request:
    return Request(text="hello", sampling=sampling, received=parts)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_by_its_name(tokenizer: Tokenizer, case: str) -> None:
    parts, reason, field = BAD[case]
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(request(*parts), LIMITS, tokenizer)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_without_a_seed_nobody_could_go_on(tokenizer: Tokenizer) -> None:
    unseeded = Sampling(max_tokens=4)
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(request(Part(token_ids=[1]), sampling=unseeded), LIMITS, tokenizer)
    assert caught.value.field == "sampling.seed"


def test_each_choice_has_its_own_part(tokenizer: Tokenizer) -> None:
    sampling = Sampling(seed=1, max_tokens=4, n=4)
    parts = (Part(choice=3, token_ids=[1, 2]), Part(choice=1, token_ids=[9], finished=True))
    job = parse_request(request(*parts, Part(token_ids=[7]), sampling=sampling), LIMITS, tokenizer)
    received = job.received
    assert received.token_ids == ((7,), (), (), (1, 2))
    assert received.ended == {1}
    assert (received.num_tokens, received.longest, received.num_common) == (3, (1, 2), 0)
    assert job.num_given_tokens == len("hello") + 3


def test_a_new_request_has_nothing(tokenizer: Tokenizer) -> None:
    job = parse_request(request(), LIMITS, tokenizer)
    assert job.received == NOTHING
    assert (job.received.of(1), job.received.longest, job.received.num_common) == ((), (), 0)
    assert job.num_given_tokens == len("hello")


@pytest.mark.parametrize(
    "asked",
    [
        Sampling(),
        Sampling(temperature=0.7, top_k=5, min_p=0.25, top_p=0.5, repetition_penalty=1.5),
        Sampling(no_top_k=True, no_min_p=True, seed=0, max_tokens=3, stop=["x"]),
    ],
)
def test_values_in_use_leave_a_router_nothing_to_fill_in(
    tokenizer: Tokenizer, asked: Sampling
) -> None:
    first = parse_request(request(sampling=asked), LIMITS, tokenizer)
    asked.MergeFrom(values_in_use(first.sampling))
    other = Limits(
        "tiny",
        VOCAB_SIZE,
        max_context_tokens=90,
        kv_capacity_tokens=90,
        defaults=SamplingDefaults(0.25, 9, 0.75, 0.125, 1.25, 2),
    )
    assert parse_request(request(sampling=asked), other, tokenizer).sampling == first.sampling
