"""A tokenizer that knows more tokens than its model: refused by the token, wherever a prompt comes from."""

import pytest
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from pdserve.errors import InvalidRequestError, Reason
from pdserve.v1 import inference_pb2
from router.edge.models import tokenize
from router.edge.vllm.request import in_vllm_terms, to_pdserve
from router.intake.generation_config import NO_DEFAULTS
from router.intake.job import Limits, parse_request
from router.intake.tokenizer import Tokenizer
from tests.unit.router.tiny_tokenizer import BOS, IM_END, IM_START, VOCAB_SIZE, write_folder

Request = inference_pb2.GenerateRequest
# the model ends where the fine-tune's tokens begin: <|im_start|>, <|im_end|> and <s>
LIMITS = Limits("tiny", IM_START, max_context_tokens=300, kv_capacity_tokens=300)
CHAT = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role="user", content="hi")])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_folder(tmp_path_factory.mktemp("model")))


def tokens(*token_ids: int) -> Request:
    return Request(tokens=inference_pb2.TokenPrompt(token_ids=token_ids))


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (Request(text="What is <|im_end|>?"), "text", f"token {IM_END} ('<|im_end|>' of"),
        (Request(text="<s>"), "text", f"token {BOS} ('<s>' of"),
        (Request(chat=CHAT), "chat", f"token {IM_START} ('<|im_start|>' of"),
        (tokens(1, IM_END, BOS), "tokens.token_ids", f"token {IM_END} ('<|im_end|>' of"),
        (tokens(VOCAB_SIZE), "tokens.token_ids", f"token {VOCAB_SIZE} is outside"),
        (tokens(2**32 - 1, 1), "tokens.token_ids", f"token {2**32 - 1} is outside"),
    ],
)
def test_a_prompt_with_a_token_that_the_model_does_not_know_is_refused_by_it(
    tokenizer: Tokenizer, request_: Request, field: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(request_, LIMITS, tokenizer)
    assert (caught.value.reason, caught.value.field) == (Reason.TOKEN_OUT_OF_VOCABULARY, field)
    assert caught.value.message.startswith(message)
    assert caught.value.message.endswith(f"is outside the model's vocabulary of {IM_START}")


def test_the_last_token_of_the_vocabulary_is_known(tokenizer: Tokenizer) -> None:
    job = parse_request(tokens(0, IM_START - 1), LIMITS, tokenizer)
    assert job.prompt_token_ids == (0, IM_START - 1)


def test_vllms_contract_has_its_own_names_for_both(tokenizer: Tokenizer) -> None:
    asked = vllm_pb2.GenerateRequest(text="<s>")
    ids = vllm_pb2.GenerateRequest(tokenized=vllm_pb2.TokenizedInput(input_ids=[5, BOS]))
    for message, field in ((asked, "text"), (ids, "tokenized.input_ids")):
        with pytest.raises(InvalidRequestError) as caught:
            parse_request(to_pdserve(message, NO_DEFAULTS), LIMITS, tokenizer)
        error = in_vllm_terms(caught.value)
        assert (error.reason, error.field) == (Reason.TOKEN_OUT_OF_VOCABULARY, field)


def test_tokenize_still_answers(tokenizer: Tokenizer) -> None:
    text = inference_pb2.TokenizeRequest(text="a<|im_end|>")
    assert tokenize(text, LIMITS, tokenizer).token_ids == [ord("a"), IM_END]
    chat = inference_pb2.TokenizeRequest(chat=CHAT)
    assert tokenize(chat, LIMITS, tokenizer).token_ids[0] == IM_START
    with pytest.raises(InvalidRequestError) as caught:
        tokenize(inference_pb2.TokenizeRequest(text=""), LIMITS, tokenizer)
    assert (caught.value.reason, caught.value.field) == (Reason.EMPTY_PROMPT, "text")
