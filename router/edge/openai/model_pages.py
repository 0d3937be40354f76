"""The pages that say what is served, and turn texts into tokens and back."""

from pdserve.errors import InvalidRequestError
from router.edge.openai.answers import Json
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.fields import OpenAiModel, parse
from router.edge.openai.prompts import Prompt, chat_prompt, text_prompt
from router.edge.openai.tools import offered
from router.intake.job import Limits, check_model
from router.intake.tokenizer import Tokenizer
from router.intake.vocabulary import check_vocabulary

_CHAT_ONLY = {"messages"}


class TokenizeRequest(OpenAiModel):
    """A text to tokenize (vLLM's /tokenize); a chat is a ChatRequest."""

    prompt: str
    model: str = ""
    add_special_tokens: bool = True
    return_token_strs: bool = False


class ChatToTokenize(ChatRequest):
    """A chat to tokenize (vLLM's /tokenize)."""

    return_token_strs: bool = False


class DetokenizeRequest(OpenAiModel):
    """Token ids to turn into text (vLLM's /detokenize)."""

    tokens: list[int]
    model: str = ""


def describe_model(limits: Limits, started_s: int) -> Json:
    """Return an entry of /v1/models."""
    return {
        "id": limits.model,
        "object": "model",
        "created": started_s,
        "owned_by": "pdserve",
        "root": limits.model,
        "max_model_len": limits.max_context_tokens,
    }


def tokenize(data: object, limits: Limits, tokenizer: Tokenizer) -> Json:
    """Answer /tokenize. Raises RequestError."""
    if isinstance(data, dict) and _CHAT_ONLY & set(data):
        chat = parse(ChatToTokenize, data)
        strings = chat.return_token_strs
        prompt = _chat(chat, limits, tokenizer)
    else:
        text = parse(TokenizeRequest, data)
        strings = text.return_token_strs
        check_model(text.model, limits)
        special = text.add_special_tokens
        prompt = text_prompt(text.prompt, tokenizer, limits, add_special_tokens=special, keep=None)
    found: Json = {
        "count": len(prompt.token_ids),
        "max_model_len": limits.max_context_tokens,
        "tokens": list(prompt.token_ids),
        "token_strs": [tokenizer.text_of(i) for i in prompt.token_ids] if strings else None,
    }
    return found


def detokenize(data: object, limits: Limits, tokenizer: Tokenizer) -> Json:
    """Answer /detokenize, special tokens included. Raises RequestError."""
    asked = parse(DetokenizeRequest, data)
    check_model(asked.model, limits)
    if any(token_id < 0 for token_id in asked.tokens):
        raise InvalidRequestError("a token id is negative", field="tokens")
    if asked.tokens:
        check_vocabulary(asked.tokens, "tokens", limits.vocab_size, tokenizer)
    return {"prompt": tokenizer.decode_all(asked.tokens)}


def _chat(asked: ChatRequest, limits: Limits, tokenizer: Tokenizer) -> Prompt:
    check_model(asked.model, limits)
    return chat_prompt(asked, offered(asked.tools, asked.tool_choice), tokenizer, limits)
