"""Messages between the processes about requests and workers. Plain data, no tensors, no sockets."""

from dataclasses import dataclass, field
from enum import StrEnum

from common.profile import Correction, WorkerProfile
from common.timings import WorkTimings
from pdserve.errors import Reason


class Role(StrEnum):
    """Role of a worker."""

    PREFILL = "prefill"
    DECODE = "decode"


class FinishReason(StrEnum):
    """Reason why a sequence ended well."""

    STOP = "stop"
    LENGTH = "length"


class GrammarKind(StrEnum):
    """Notation of a grammar; the values are the field names of the public StructuredOutput."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "grammar"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Grammar:
    """Form that the output must have. `texts` has one entry; of a choice, one for each alternative.

    With `strict_formats` a JSON schema whose `format` cannot be kept is refused.
    """

    kind: GrammarKind
    texts: tuple[str, ...]
    strict_formats: bool = False


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Options for choosing tokens and stopping (inference.proto). The router's edge validates them."""

    temperature: float
    seed: int
    max_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that the output must not have
    allowed_token_ids: tuple[int, ...] = ()  # empty: all

    @property
    def has_bans(self) -> bool:
        """Tell whether some tokens may be forbidden at some place, apart from the grammar."""
        return self.min_tokens > 0 or bool(self.bad_words) or bool(self.allowed_token_ids)

    def ending_token_ids(self, eos_token_ids: frozenset[int]) -> frozenset[int]:
        """Return the tokens that end an output: stop tokens and, unless ignored, end-of-sequence tokens."""
        stops = frozenset(self.stop_token_ids)
        return stops if self.ignore_eos else stops | eos_token_ids

    @property
    def is_truncated(self) -> bool:
        """True if some tokens may not be drawn at all."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def has_penalties(self) -> bool:
        """True if the tokens so far change the logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )

    @property
    def is_plain(self) -> bool:
        """True if tokens that are not forbidden are drawn from softmax(logits / temperature) as it is."""
        return not (self.logit_bias or self.has_penalties or self.is_truncated)

    @property
    def is_memoryless(self) -> bool:
        """True if choosing a token needs its logits and position alone, and yields the token alone.

        Then the choice can run before the host knows the token before it.
        """
        needs_tokens = self.has_penalties or self.grammar is not None
        return not (needs_tokens or self.logit_bias or self.has_bans or self.logprobs is not None)

    @property
    def needs_all_prompt_logits(self) -> bool:
        """True if every position of the prompt must run, and none may come from a prefix cache."""
        return self.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one position: of its token, and of the likeliest ones in order."""

    logprob: float
    top_token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkRequest:
    """One request as a worker sees it: token ids in, token ids out.

    Requests share cached KV only where their `cache_salt` is the same. Requests of one `group` have the same
    prompt: the first one computes it, the others wait and share it. A request that moves from another worker
    has `prior_token_ids`, the output so far; the worker goes on behind them.
    """

    request_id: str
    attempt: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    prefill_worker: str | None = None
    timeout_s: float | None = None
    cache_salt: str = ""
    group: str = ""
    priority: int = 0  # lower goes first
    prior_token_ids: tuple[int, ...] = ()
    num_held_tokens: int = 0  # of the given ones, on the decode worker that asks for the rest
    max_item_tokens: int | None = None  # the longest piece of KV that decode takes
    waited_s: float = 0.0  # on the decode worker, before it asked

    @property
    def num_given_tokens(self) -> int:
        """Number of tokens that are known when the request comes: prompt and prior output."""
        return len(self.prompt_token_ids) + len(self.prior_token_ids)


@dataclass(frozen=True, slots=True)
class WorkFailure:
    """Reason why a sequence ended badly; `is_death` if its worker's process died with it.

    `is_blamed_elsewhere` if that was more likely another sequence's doing; `is_of_prefill` if the worker
    is the one that the prompt was to come from.
    """

    reason: Reason
    message: str
    is_death: bool = False
    is_blamed_elsewhere: bool = False
    is_of_prefill: bool = False


@dataclass(slots=True)  # not frozen, which halves the time to make one: there is one for each token
class SequenceOutput:
    """New tokens or the end of one sequence. `index` is the position of `token_ids[0]` in the output.

    `logprobs` has one entry for each token, or none; `prompt_logprobs` comes with token 0. `timings` come
    with the end, and with token 2 as far as they are known by then.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    failure: WorkFailure | None = None
    timings: WorkTimings | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's identity; constant while its process lives and keeps its role."""

    name: str
    role: Role
    pid: int
    incarnation: str
    model_fingerprint: str
    max_context_tokens: int
    vocab_size: int
    profile: WorkerProfile = field(default_factory=WorkerProfile)
    dtype: str = ""
    wire_version: int = 0
    dtype_reason: str = ""  # why this dtype was chosen, for people to read


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """A worker's load and counters at one moment, in sequences, blocks, tokens, bytes and seconds."""

    num_running: int = 0
    num_waiting: int = 0
    num_waiting_tokens: int = 0
    backlog_tokens: int = 0  # of num_waiting_tokens, those that this worker itself will run
    blocks_total: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0
    block_size: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    swaps: int = 0
    kv_bytes: int = 0
    kv_rejected: int = 0
    prefill_fallbacks: int = 0
    recomputed_tokens: int = 0  # of prefill_tokens, those that had run before, here or elsewhere
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    credit_bytes: int = 0  # limit of KV on its way to decode; 0: none, or no decode worker
    credit_wanted_bytes: int = 0  # wanted of it by pulls under way and by prompts that wait
    spilled_bytes: int = 0  # by the object store of the worker's node
    num_submitted: int = 0  # requests of all routers that have not ended
    is_draining: bool = False  # some router wants it to get no new requests
    blocks_decoding: int = 0  # held for this cause, half a second ago at most; shared ones by each
    blocks_prefilling: int = 0
    blocks_pulling: int = 0
    blocks_sending: int = 0
    progress_age_s: float = 0.0
    correction: Correction = field(default_factory=Correction)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Outputs of one engine step, and the load after it."""

    sequences: tuple[SequenceOutput, ...] = field(default_factory=tuple)
    load: WorkerLoad | None = None
