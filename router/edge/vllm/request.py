"""Translation of a request of vLLM's gRPC contract to pdserve.v1.

Every field is honoured or refused by its name, also fields that a later version of the contract
adds.
"""

from google.protobuf.message import Message
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2

from pdserve.errors import InvalidRequestError, RequestError
from pdserve.v1 import inference_pb2
from router.intake.generation_config import NO_DEFAULTS, SamplingDefaults
from router.intake.wire_values import json_object, to_int32

_SAMPLING = "sampling_params"
REQUEST_FIELDS = {
    "request_id",
    "tokenized",
    "text",
    _SAMPLING,
    "stream",
    "data_parallel_rank",  # 0, the only one there is
}
SAMPLING_FIELDS = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "max_tokens",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "skip_special_tokens",  # matters to stop texts alone: answers are tokens
    "spaces_between_special_tokens",  # of a text that shows them; no text is returned here
    "ignore_eos",
    "n",
    "json_schema",
    "regex",
    "grammar",
    "json_object",
    "choice",
    "logprobs",
    "prompt_logprobs",
    "seed",
    "include_stop_str_in_output",  # of a returned text; the tokens are the same either way
    "logit_bias",
    "grammar_from_first_token",  # grammars always start there
}
# prefix of a field in pdserve.v1 -> prefix in this contract; the first that matches counts
_NAMES = (
    ("sampling.structured_output.", f"{_SAMPLING}."),
    ("sampling.", f"{_SAMPLING}."),
    ("tokens.token_ids", "tokenized.input_ids"),
)


def to_pdserve(
    message: vllm_pb2.GenerateRequest, defaults: SamplingDefaults
) -> inference_pb2.GenerateRequest:
    """Return the request for parse_request.

    Raises InvalidRequestError for a field that is not supported.

    All values but `max_tokens` are set in it, so that only `defaults` and the contract's own
    defaults count.
    """
    _refuse_others(message, REQUEST_FIELDS, "")
    _refuse_others(message.sampling_params, SAMPLING_FIELDS, f"{_SAMPLING}.")
    if message.data_parallel_rank:
        raise InvalidRequestError("there is one rank, 0", field="data_parallel_rank")
    sampling = _to_sampling(message.sampling_params, defaults)
    request = inference_pb2.GenerateRequest(request_id=message.request_id, sampling=sampling)
    if message.WhichOneof("input") == "text":
        request.text = message.text
    else:
        request.tokens.token_ids.extend(message.tokenized.input_ids)
    return request


def in_vllm_terms(error: RequestError) -> RequestError:
    """Return the error with its field under the name that this contract has for it."""
    for ours, theirs in _NAMES:
        if error.field and error.field.startswith(ours):
            error.field = theirs + error.field.removeprefix(ours)
            break
    return error


def _refuse_others(message: Message, known: set[str], prefix: str) -> None:
    for field, _ in message.ListFields():
        if field.name not in known:
            raise InvalidRequestError("is not supported here", field=f"{prefix}{field.name}")


def _to_sampling(
    asked: vllm_pb2.SamplingParams, defaults: SamplingDefaults
) -> inference_pb2.SamplingParams:
    """Return the sampling options; vLLM's unset temperature is 1 without the model's default.

    A 0 in top_k or min_p is unset or wanted. Clients that fill in the model's defaults, as smg does,
    set top_p and repetition_penalty, which cannot be 0. So with both set, a 0 is wanted.
    """
    if asked.stop and not asked.skip_special_tokens:
        raise _refusal("skip_special_tokens", "stop texts are found in text without them; set it")
    unset = 1.0 if defaults.temperature is None else defaults.temperature
    silent = NO_DEFAULTS if asked.top_p and asked.repetition_penalty else defaults
    top_k = to_int32(asked.top_k) or silent.top_k or 0
    min_p = asked.min_p or silent.min_p or 0.0
    sampling = inference_pb2.SamplingParams(
        temperature=asked.temperature if asked.HasField("temperature") else unset,
        top_p=asked.top_p or defaults.top_p or 1.0,
        top_k=top_k,
        no_top_k=top_k == 0,
        min_p=min_p,
        no_min_p=min_p == 0,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        repetition_penalty=asked.repetition_penalty or defaults.repetition_penalty or 1.0,
        max_tokens=to_int32(asked.max_tokens) if asked.HasField("max_tokens") else None,
        min_tokens=to_int32(asked.min_tokens),
        stop=asked.stop,
        stop_token_ids=asked.stop_token_ids,
        ignore_eos=asked.ignore_eos,
        n=to_int32(asked.n) or 1,
        logprobs=asked.logprobs if asked.HasField("logprobs") else None,
        prompt_logprobs=asked.prompt_logprobs if asked.HasField("prompt_logprobs") else None,
        seed=asked.seed % 2**64 if asked.HasField("seed") else None,
        structured_output=_to_structured(asked),
    )
    for token_id, bias in asked.logit_bias.items():
        if token_id < 0:
            raise _refusal("logit_bias", f"{token_id} is no token id")
        sampling.logit_bias[token_id] = bias
    return sampling


def _to_structured(asked: vllm_pb2.SamplingParams) -> inference_pb2.StructuredOutput | None:
    kind = asked.WhichOneof("constraint")
    if kind is None:
        return None
    if kind == "json_object":
        if not asked.json_object:
            raise _refusal("json_object", "false says nothing; leave it out")
        return json_object()
    if kind == "choice":
        choice = inference_pb2.Choice(texts=asked.choice.choices)
        return inference_pb2.StructuredOutput(choice=choice)
    form = inference_pb2.StructuredOutput()
    setattr(form, kind, getattr(asked, kind))
    return form


def _refusal(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"{_SAMPLING}.{name}")
