import math
from dataclasses import replace

import pytest

from common.messages import SamplingParams
from pdserve.errors import InvalidRequestError, NotFoundError, Reason, RequestError
from pdserve.v1 import inference_pb2
from router.access.tenant import ANONYMOUS, Tenant
from router.intake.job import Job, Limits, parse_request
from router.intake.tokenizer import Tokenizer
from tests.unit.router.tiny_tokenizer import IM_END, VOCAB_SIZE, write_folder

Request = inference_pb2.GenerateRequest
Sampling = inference_pb2.SamplingParams
LIMITS = Limits("tiny", VOCAB_SIZE, max_context_tokens=100, kv_capacity_tokens=80)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_folder(tmp_path_factory.mktemp("model")))


def chat(*messages: tuple[str, str]) -> Request:
    request = Request()
    request.chat.SetInParent()
    for role, content in messages:
        request.chat.messages.add(role=role, content=content)
    return request


def tokens(*token_ids: int) -> Request:
    request = Request()
    request.tokens.SetInParent()
    request.tokens.token_ids.extend(token_ids)
    return request


def hello(**sampling: object) -> Request:
    return Request(text="hello", sampling=Sampling(**sampling))  # type: ignore[arg-type]


INVALID, EMPTY = Reason.INVALID_FIELD, Reason.EMPTY_PROMPT
CONTEXT, KV = Reason.CONTEXT_EXCEEDED, Reason.KV_CAPACITY_EXCEEDED
VOCABULARY = Reason.TOKEN_OUT_OF_VOCABULARY
BAD = {
    "no prompt at all": (Request(), EMPTY, "tokens.token_ids"),
    "empty text": (Request(text=""), EMPTY, "text"),
    "no tokens": (tokens(), EMPTY, "tokens.token_ids"),
    "no messages": (chat(), EMPTY, "chat.messages"),
    "empty messages": (chat(("system", ""), ("user", "")), EMPTY, "chat.messages.content"),
    "unknown role": (chat(("tool", "x")), INVALID, "chat.messages.role"),
    "no role": (chat(("", "x")), INVALID, "chat.messages.role"),
    "first token outside": (tokens(1, VOCAB_SIZE), VOCABULARY, "tokens.token_ids"),
    "largest token": (tokens(2**32 - 1), VOCABULARY, "tokens.token_ids"),
    "max_tokens 0": (hello(max_tokens=0), INVALID, "sampling.max_tokens"),
    "max_tokens negative": (hello(max_tokens=-(2**31)), INVALID, "sampling.max_tokens"),
    "one beyond the context": (hello(max_tokens=96), CONTEXT, "sampling.max_tokens"),
    "largest max_tokens": (hello(max_tokens=2**31 - 1), CONTEXT, "sampling.max_tokens"),
    "one beyond the KV memory": (hello(max_tokens=76), KV, "sampling.max_tokens"),
    "prompt as long as the context": (Request(text="x" * 100), CONTEXT, "sampling.max_tokens"),
    "prompt as long as the KV memory": (Request(text="x" * 80), KV, "sampling.max_tokens"),
    "temperature NaN": (hello(temperature=math.nan), INVALID, "sampling.temperature"),
    "temperature infinite": (hello(temperature=math.inf), INVALID, "sampling.temperature"),
    "temperature negative": (hello(temperature=-0.1), INVALID, "sampling.temperature"),
    "temperature above 100": (hello(temperature=100.5), INVALID, "sampling.temperature"),
    "129 stops": (hello(stop=["x"] * 129), INVALID, "sampling.stop"),
    "empty stop": (hello(stop=["x", ""]), INVALID, "sampling.stop"),
    "long stop": (hello(stop=["x" * 257]), INVALID, "sampling.stop"),
    "129 stop tokens": (hello(stop_token_ids=[1] * 129), INVALID, "sampling.stop_token_ids"),
    "stop token outside": (
        hello(stop_token_ids=[VOCAB_SIZE]),
        VOCABULARY,
        "sampling.stop_token_ids",
    ),
    "top_k negative": (hello(top_k=-1), INVALID, "sampling.top_k"),
    "top_p 0": (hello(top_p=0.0), INVALID, "sampling.top_p"),
    "top_p above 1": (hello(top_p=1.001), INVALID, "sampling.top_p"),
    "top_p NaN": (hello(top_p=math.nan), INVALID, "sampling.top_p"),
    "min_p negative": (hello(min_p=-0.01), INVALID, "sampling.min_p"),
    "min_p above 1": (hello(min_p=1.01), INVALID, "sampling.min_p"),
    "repetition 0": (hello(repetition_penalty=0.0), INVALID, "sampling.repetition_penalty"),
    "repetition negative": (hello(repetition_penalty=-1), INVALID, "sampling.repetition_penalty"),
    "repetition infinite": (
        hello(repetition_penalty=math.inf),
        INVALID,
        "sampling.repetition_penalty",
    ),
    "presence below -2": (hello(presence_penalty=-2.1), INVALID, "sampling.presence_penalty"),
    "presence above 2": (hello(presence_penalty=2.1), INVALID, "sampling.presence_penalty"),
    "frequency NaN": (hello(frequency_penalty=math.nan), INVALID, "sampling.frequency_penalty"),
    "frequency above 2": (hello(frequency_penalty=2.1), INVALID, "sampling.frequency_penalty"),
    "bias outside": (hello(logit_bias={VOCAB_SIZE: 1.0}), VOCABULARY, "sampling.logit_bias"),
    "bias of 101": (hello(logit_bias={1: 0.0, 2: 101.0}), INVALID, "sampling.logit_bias"),
    "bias of -infinity": (hello(logit_bias={1: -math.inf}), INVALID, "sampling.logit_bias"),
    "bias of NaN": (hello(logit_bias={1: math.nan}), INVALID, "sampling.logit_bias"),
    "301 biases": (
        hello(logit_bias=dict.fromkeys(range(1000, 1301), 1.0)),
        INVALID,
        "sampling.logit_bias",
    ),
    "min_tokens negative": (hello(min_tokens=-1), INVALID, "sampling.min_tokens"),
    "min above max": (hello(min_tokens=9, max_tokens=8), INVALID, "sampling.min_tokens"),
    "min beyond what is left": (hello(min_tokens=76), INVALID, "sampling.min_tokens"),
    "logprobs negative": (hello(logprobs=-1), INVALID, "sampling.logprobs"),
    "21 logprobs": (hello(logprobs=21), INVALID, "sampling.logprobs"),
    "21 prompt logprobs": (hello(prompt_logprobs=21), INVALID, "sampling.prompt_logprobs"),
    "spaces in the id": (Request(text="x", request_id="a b"), INVALID, "request_id"),
    "newline after the id": (Request(text="x", request_id="a\n"), INVALID, "request_id"),
    "letters of another script": (Request(text="x", request_id="é"), INVALID, "request_id"),
    "no choice": (hello(n=0), INVALID, "sampling.n"),
    "17 choices": (hello(n=17), INVALID, "sampling.n"),
    "10^6 choices": (hello(n=10**6), INVALID, "sampling.n"),
    "priority 101": (Request(text="x", priority=101), INVALID, "priority"),
    "priority -101": (Request(text="x", priority=-101), INVALID, "priority"),
    "long salt": (Request(text="x", cache_salt="x" * 257), INVALID, "cache_salt"),
    "long id": (Request(text="x", request_id="x" * 257), INVALID, "request_id"),
}


@pytest.mark.parametrize(("request_", "reason", "field"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_reason_and_field(
    tokenizer: Tokenizer, request_: Request, reason: Reason, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(request_, LIMITS, tokenizer)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert "\n" not in caught.value.message


def test_another_model_is_not_found_and_told_which_one_is(tokenizer: Tokenizer) -> None:
    with pytest.raises(NotFoundError, match="'tiny' is") as caught:
        parse_request(Request(model="huge", text="x"), LIMITS, tokenizer)
    assert (caught.value.reason, caught.value.field) == (Reason.MODEL_NOT_FOUND, "model")


def test_a_prompt_beyond_context_and_memory_names_both_numbers(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"prompt of 5 \+ max_tokens 96 .* context of 100"):
        parse_request(hello(max_tokens=96), LIMITS, tokenizer)
    with pytest.raises(RequestError, match=r"prompt of 5 \+ max_tokens 76 .* memory of 80"):
        parse_request(hello(max_tokens=76), LIMITS, tokenizer)


_LARGEST = SamplingParams(
    temperature=100.0,
    seed=2**64 - 1,
    max_tokens=75,
    stop_token_ids=(VOCAB_SIZE - 1,) * 128,
    ignore_eos=True,
    top_k=2**31 - 1,
    min_p=1.0,
    repetition_penalty=100.0,
    presence_penalty=2.0,
    frequency_penalty=-2.0,
    logit_bias=((0, -100.0), (VOCAB_SIZE - 1, 100.0)),
    min_tokens=75,
    logprobs=20,
    prompt_logprobs=20,
    bad_words=((121,) * 256, (32, *(121,) * 256)),
    allowed_token_ids=(7,) * 1024,
)


def test_the_largest_of_everything_passes(tokenizer: Tokenizer) -> None:
    stops = ["y" * 256] * 128
    request = hello(
        max_tokens=75,
        temperature=100.0,
        seed=2**64 - 1,
        stop=stops,
        stop_token_ids=[VOCAB_SIZE - 1] * 128,
        ignore_eos=True,
        top_k=2**31 - 1,
        top_p=1.0,
        min_p=1.0,
        repetition_penalty=100.0,
        presence_penalty=2.0,
        frequency_penalty=-2.0,
        logit_bias={VOCAB_SIZE - 1: 100.0, 0: -100.0},
        min_tokens=75,
        logprobs=20,
        prompt_logprobs=20,
        bad_words=stops,
        allowed_token_ids=[7] * 1024,
    )
    request.cache_salt, request.priority = "s" * 256, -100
    request.model, request.request_id = "tiny", "Az0._:-" + "x" * 121
    expected = Job(
        request.request_id, tuple(b"hello"), _LARGEST, tuple(stops), "s" * 256, priority=-100
    )
    assert parse_request(request, LIMITS, tokenizer) == expected


def test_what_is_left_open_is_filled_in(tokenizer: Tokenizer) -> None:
    first, second = (parse_request(Request(text="hello"), LIMITS, tokenizer) for _ in range(2))
    assert first.sampling.temperature == 0.0
    assert first.sampling.max_tokens == 75  # what 80 positions leave
    assert not first.sampling.ignore_eos
    assert first.sampling.is_plain
    assert (first.sampling.logprobs, first.sampling.prompt_logprobs) == (None, None)
    assert first.request_id != second.request_id
    assert first.sampling.seed != second.sampling.seed
    wide = replace(LIMITS, kv_capacity_tokens=1000)
    assert parse_request(Request(text="hello"), wide, tokenizer).sampling.max_tokens == 95


def test_a_seed_of_zero_is_a_seed(tokenizer: Tokenizer) -> None:
    assert parse_request(hello(seed=0), LIMITS, tokenizer).sampling.seed == 0


def test_the_three_kinds_of_prompt_become_tokens(tokenizer: Tokenizer) -> None:
    def prompt(request: Request) -> tuple[int, ...]:
        return parse_request(request, LIMITS, tokenizer).prompt_token_ids

    assert prompt(Request(text="hé")) == tuple("hé".encode())
    assert prompt(tokens(7, VOCAB_SIZE - 1, 0)) == (7, VOCAB_SIZE - 1, 0)
    rendered = prompt(chat(("system", ""), ("user", "hé")))
    assert rendered.count(IM_END) == 2
    assert bytes("user\nhé", "utf-8") in bytes(t for t in rendered if t < 256)


@pytest.mark.parametrize(("prompt_logprobs", "most"), [(0, 250_000), (20, 22_727)])
def test_log_probabilities_of_a_prompt_too_long_for_a_message_are_refused(
    tokenizer: Tokenizer, prompt_logprobs: int, most: int
) -> None:
    wide = replace(LIMITS, max_context_tokens=10**6, kv_capacity_tokens=10**6)
    request = tokens(*([1] * most))
    request.sampling.prompt_logprobs = prompt_logprobs
    assert len(parse_request(request, wide, tokenizer).prompt_token_ids) == most
    request.tokens.token_ids.append(1)
    with pytest.raises(InvalidRequestError, match=f"up to {most} tokens") as caught:
        parse_request(request, wide, tokenizer)
    assert caught.value.field == "sampling.prompt_logprobs"


@pytest.mark.parametrize(
    ("tenant", "priority", "sent"),
    [(ANONYMOUS, -5, -5), (Tenant("acme"), -5, 0), (Tenant("acme"), 3, 3)],
)
def test_beside_others_a_named_tenant_may_only_yield(
    tenant: Tenant, priority: int, sent: int
) -> None:
    sampling = SamplingParams(0.0, 0, 5)
    job = Job("r", (1,), sampling, (), priority=priority, tenant=tenant)
    assert (job.priority, job.worker_priority) == (priority, sent)
