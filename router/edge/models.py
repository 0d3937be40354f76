"""Answers about the served model: its limits and defaults, and the tokens of a prompt."""

from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2
from router.intake.job import Limits, check_model, tokenize_prompt
from router.intake.tokenizer import Tokenizer

# at most a token a byte, of three bytes as a varint: the answer stays below gRPC's usual limit of 4 MiB
MAX_TOKENIZE_BYTES = 2**20


def list_models(limits: Limits, tokenizer: Tokenizer) -> inference_pb2.ListModelsResponse:
    """Return the one served model."""
    model = inference_pb2.Model(
        name=limits.model,
        max_context_tokens=limits.max_context_tokens,
        kv_capacity_tokens=limits.kv_capacity_tokens,
        vocab_size=limits.vocab_size,
        has_chat_template=tokenizer.has_chat_template,
        sampling_defaults=limits.defaults.to_pb() if limits.defaults.said else None,
    )
    return inference_pb2.ListModelsResponse(models=[model])


def tokenize(
    request: inference_pb2.TokenizeRequest, limits: Limits, tokenizer: Tokenizer
) -> inference_pb2.TokenizeResponse:
    """Return the tokens that Generate would see; the largest prompt takes seconds.

    Tokens that the model does not know are part of the answer: they show why Generate refuses the
    text. Raises InvalidRequestError or NotFoundError.
    """
    check_model(request.model, limits)
    kind = request.WhichOneof("prompt") or "text"
    if request.ByteSize() > MAX_TOKENIZE_BYTES:
        raise InvalidRequestError(f"more than {MAX_TOKENIZE_BYTES} bytes", field=kind)
    prompt = inference_pb2.GenerateRequest()
    if kind == "chat":
        prompt.chat.CopyFrom(request.chat)
    else:
        prompt.text = request.text
    token_ids, _ = tokenize_prompt(prompt, tokenizer)
    return inference_pb2.TokenizeResponse(
        token_ids=token_ids,
        num_tokens=len(token_ids),
        max_context_tokens=limits.max_context_tokens,
    )
