"""Jobs: checked requests, made of clients' messages or refused with the name of the field."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from common.messages import SamplingParams
from common.telemetry.tracing.caller import Caller, current_caller
from pdserve.errors import InvalidRequestError, NotFoundError, Reason
from pdserve.v1 import inference_pb2
from router.access.tenant import ANONYMOUS, RequestKey, Tenant, current_tenant
from router.intake.bad_words import check_first_token, tokenize_bad_words
from router.intake.generation_config import NO_DEFAULTS, SamplingDefaults
from router.intake.received import NOTHING, Received, parse_received
from router.intake.sampling import check_prompt_logprobs, parse_num_choices, parse_sampling
from router.intake.tokenizer import ChatMessage, Tokenizer
from router.intake.vocabulary import check_vocabulary

_ID = re.compile(r"[!-~]{1,256}")  # visible ASCII
_ROLES = {"system", "user", "assistant"}
_MAX_SALT_CHARS = 256
_MAX_PRIORITY = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the served model and the workers' memory, and the model's sampling defaults."""

    model: str
    vocab_size: int
    max_context_tokens: int
    kv_capacity_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    defaults: SamplingDefaults = NO_DEFAULTS


@dataclass(frozen=True, slots=True)
class Job:
    """A checked request with all values filled in."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stop: tuple[str, ...]
    cache_salt: str = ""
    num_choices: int = 1
    priority: int = 0
    shown_tokens: frozenset[str] = frozenset()  # special tokens that the answer's text shows
    received: Received = NOTHING  # output that another router sent
    # filled by themselves, so that a job made in a call always has its tenant and its caller
    tenant: Tenant = field(default_factory=current_tenant)
    caller: Caller = field(default_factory=current_caller, compare=False)

    @property
    def key(self) -> RequestKey:
        """Name of the job among the requests of all tenants."""
        return RequestKey(self.tenant, self.request_id)

    @property
    def num_given_tokens(self) -> int:
        """Number of tokens that are to be computed before new ones come."""
        return len(self.prompt_token_ids) + self.received.num_tokens

    @property
    def salt(self) -> str:
        """Salt under which the job shares cached KV; no other tenant has the same."""
        return self.tenant.salt(self.cache_salt)

    @property
    def worker_priority(self) -> int:
        """Priority beside other tenants' requests: a named tenant may only yield."""
        return self.priority if self.tenant == ANONYMOUS else max(self.priority, 0)

    def sampling_of(self, choice: int) -> SamplingParams:
        """Return the sampling of choice i, with seed + i.

        Only the first choice has prompt logprobs.
        """
        if not choice:
            return self.sampling
        seed = (self.sampling.seed + choice) % 2**64
        return replace(self.sampling, seed=seed, prompt_logprobs=None)


def parse_request(
    message: inference_pb2.GenerateRequest, limits: Limits, tokenizer: Tokenizer
) -> Job:
    """Return the job of a message, with every field checked.

    Raises InvalidRequestError or NotFoundError.
    """
    check_model(message.model, limits)
    request_id = message.request_id or secrets.token_hex(8)
    if not _ID.fullmatch(request_id):
        raise InvalidRequestError("1 to 256 visible ASCII characters", field="request_id")
    if len(message.cache_salt) > _MAX_SALT_CHARS:
        raise InvalidRequestError(f"more than {_MAX_SALT_CHARS} characters", field="cache_salt")
    if abs(message.priority) > _MAX_PRIORITY:
        raise InvalidRequestError(
            f"{message.priority} is not in [-{_MAX_PRIORITY}, {_MAX_PRIORITY}]", field="priority"
        )
    asked = limits.defaults.fill(message.sampling)

    def check_length(text: str) -> None:
        # if max_tokens is the cause, the error later names the prompt's real length
        if (least := tokenizer.least_tokens(text)) >= limits.max_context_tokens:
            _check_context(least, max(asked.max_tokens, 1), limits, "at least ")

    prompt = parse_prompt(message, limits, tokenizer, check_length)
    seed = asked.seed if asked.HasField("seed") else secrets.randbits(64)
    max_tokens = _parse_max_tokens(asked, len(prompt), limits)
    sampling = parse_sampling(asked, seed, max_tokens, limits.vocab_size)
    sampling = _add_bad_words(sampling, asked.bad_words, limits, tokenizer)
    check_prompt_logprobs(sampling, len(prompt))
    return Job(
        request_id,
        prompt,
        sampling,
        tuple(asked.stop),
        message.cache_salt,
        parse_num_choices(asked),
        message.priority,
        received=parse_received(message, max_tokens, limits.vocab_size, tokenizer),
    )


def check_model(model: str, limits: Limits) -> None:
    """Raise NotFoundError when a model is named and another is served."""
    if model and model != limits.model:
        raise NotFoundError(
            f"'{model}' is not served here; '{limits.model}' is",
            reason=Reason.MODEL_NOT_FOUND,
            field="model",
        )


def parse_prompt(
    message: inference_pb2.GenerateRequest,
    limits: Limits,
    tokenizer: Tokenizer,
    check_length: Callable[[str], None] = lambda _: None,
) -> tuple[int, ...]:
    """Return the token ids of the prompt, at least one, all known to the model.

    `check_length` gets a text before it is tokenized, which takes a second a megabyte. Raises
    InvalidRequestError.
    """
    ids, field = tokenize_prompt(message, tokenizer, check_length)
    check_vocabulary(ids, field, limits.vocab_size, tokenizer)
    return tuple(ids)


def tokenize_prompt(
    message: inference_pb2.GenerateRequest,
    tokenizer: Tokenizer,
    check_length: Callable[[str], None] = lambda _: None,
) -> tuple[list[int], str]:
    """Return the token ids of the prompt, at least one, and the name of their field.

    Ids that the model does not know are not checked. `check_length` is as in parse_prompt. Raises
    InvalidRequestError.
    """
    kind = message.WhichOneof("prompt") or "tokens"
    if kind == "text":
        check_length(message.text)
        ids = tokenizer.encode(message.text) if message.text else []
    elif kind == "chat":
        text = tokenizer.render_chat(_parse_chat(message.chat))
        check_length(text)
        ids = tokenizer.encode_rendered(text)
    else:
        ids = list(message.tokens.token_ids)
    field = "tokens.token_ids" if kind == "tokens" else kind
    if not ids:
        raise InvalidRequestError("the prompt is empty", reason=Reason.EMPTY_PROMPT, field=field)
    return ids, field


def _add_bad_words(
    sampling: SamplingParams, words: Sequence[str], limits: Limits, tokenizer: Tokenizer
) -> SamplingParams:
    """Return the sampling with its bad words. Raises InvalidRequestError if it forbids every token."""
    bad_words = tokenize_bad_words(words, limits.vocab_size, tokenizer)
    sampling = replace(sampling, bad_words=bad_words) if bad_words else sampling
    check_first_token(sampling, limits.eos_token_ids, limits.vocab_size)
    return sampling


def _parse_chat(chat: inference_pb2.ChatPrompt) -> list[ChatMessage]:
    if not chat.messages:
        raise InvalidRequestError(
            "a chat needs a message", reason=Reason.EMPTY_PROMPT, field="chat.messages"
        )
    for message in chat.messages:
        if message.role not in _ROLES:
            raise InvalidRequestError(
                f"'{message.role}' is none of {sorted(_ROLES)}", field="chat.messages.role"
            )
    if not any(message.content for message in chat.messages):
        raise InvalidRequestError(
            "every message is empty", reason=Reason.EMPTY_PROMPT, field="chat.messages.content"
        )
    return [ChatMessage(message.role, message.content) for message in chat.messages]


def _parse_max_tokens(
    sampling: inference_pb2.SamplingParams, num_prompt_tokens: int, limits: Limits
) -> int:
    """Return the client's max_tokens, or without one all that context, KV memory and model leave.

    Raises InvalidRequestError when context or KV memory cannot hold them.
    """
    room = min(limits.max_context_tokens, limits.kv_capacity_tokens) - num_prompt_tokens
    if limits.defaults.max_tokens is not None:
        # a client's min_tokens beyond the model's default wins
        room = min(room, max(limits.defaults.max_tokens, sampling.min_tokens))
    wanted = sampling.max_tokens if sampling.HasField("max_tokens") else max(room, 1)
    if wanted < 1:
        raise InvalidRequestError(f"{wanted} is less than 1", field="sampling.max_tokens")
    _check_context(num_prompt_tokens, wanted, limits)
    if num_prompt_tokens + wanted > limits.kv_capacity_tokens:
        raise InvalidRequestError(
            f"prompt of {num_prompt_tokens} + max_tokens {wanted} exceed the KV memory of "
            f"{limits.kv_capacity_tokens} tokens",
            reason=Reason.KV_CAPACITY_EXCEEDED,
            field="sampling.max_tokens",
        )
    return wanted


def _check_context(
    num_prompt_tokens: int, max_tokens: int, limits: Limits, quantifier: str = ""
) -> None:
    if num_prompt_tokens + max_tokens > limits.max_context_tokens:
        raise InvalidRequestError(
            f"prompt of {quantifier}{num_prompt_tokens} + max_tokens {max_tokens} exceed the context of "
            f"{limits.max_context_tokens} tokens",
            reason=Reason.CONTEXT_EXCEEDED,
            field="sampling.max_tokens",
        )
