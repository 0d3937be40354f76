"""Engine-side state of one request."""

from dataclasses import dataclass, field
from math import inf

from common.engine.sampling.bans import TokenBans
from common.engine.sampling.state import SamplerState
from common.engine.timeline import Timeline
from common.grammar.matcher import GrammarMatcher
from common.messages import (
    FinishReason,
    SamplingParams,
    TokenLogprobs,
    WorkFailure,
    WorkRequest,
)
from common.prefix_chain import PrefixChain


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, blocks and progress of one request.

    `num_computed_tokens` counts the positions whose KV is in `block_table`; it alone tells prefill,
    a chunk, an arrived hand-off and decode apart. `block_table` is append-only; a sequence that loses its
    blocks gets another list. `matcher` says where the output stands in the request's grammar, if it has
    one (sampling/grammars.py).

    Invariant: a running sequence that a scheduler looks at has uncomputed tokens, or one token in flight:
    sampled, but known to the device alone (decode_worker/lookahead.py). A sequence in flight has one more
    computed token than another one with the same `token_ids`.
    """

    request: WorkRequest
    timeline: Timeline
    token_ids: list[int] = field(init=False)
    block_table: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_shared_blocks: int = 0  # of block_table, found in the prefix cache
    state_slot: int | None = None  # of a model with state, as long as there are blocks
    chain: PrefixChain | None = None  # the PrefixCache's
    finish_reason: FinishReason | None = None
    failure: WorkFailure | None = None
    # the rest follows from the request; kept because every step asks for it
    request_id: str = field(init=False)
    sampling: SamplingParams = field(init=False)
    num_prompt_tokens: int = field(init=False)
    num_given_tokens: int = field(init=False)  # prompt, and output of workers that had it before
    most_tokens: int = field(init=False)  # of prompt and output
    stop_token_ids: tuple[int, ...] = field(init=False)
    is_plain_greedy: bool = field(init=False)  # the likeliest token, and nothing is told of it
    is_memoryless: bool = field(init=False)
    has_bans: bool = field(init=False)
    sampler_state: SamplerState | None = None  # the sampler's own
    bans: TokenBans | None = None  # the sampler's own
    matcher: GrammarMatcher | None = None
    # of the prompt's tokens from the 2nd on, as far as they are known; None: not asked for
    prompt_logprobs: list[TokenLogprobs] | None = field(init=False)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.token_ids = [*self.request.prompt_token_ids, *self.request.prior_token_ids]
        self.request_id = self.request.request_id
        self.sampling = sampling
        self.num_prompt_tokens = len(self.request.prompt_token_ids)
        self.num_given_tokens = len(self.token_ids)
        self.most_tokens = self.num_prompt_tokens + sampling.max_tokens
        self.stop_token_ids = sampling.stop_token_ids
        is_greedy = sampling.is_plain and sampling.temperature == 0
        self.has_bans = sampling.has_bans
        self.is_plain_greedy = is_greedy and not self.has_bans and sampling.logprobs is None
        self.is_memoryless = sampling.is_memoryless
        self.prompt_logprobs = [] if sampling.needs_all_prompt_logits else None

    @property
    def num_output_tokens(self) -> int:
        """Number of tokens sampled so far, here and elsewhere."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def has_answered(self) -> bool:
        """True once a worker has sampled a token; an output that only its client knows does not count.

        A client could make one up, to get before others.
        """
        is_moved = self.request.attempt > 1
        num_prior = 0 if is_moved else self.num_given_tokens - self.num_prompt_tokens
        return self.num_output_tokens > num_prior

    @property
    def num_uncomputed_tokens(self) -> int:
        """Number of tokens whose KV is still missing; 1 while decoding."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def next_position(self) -> int:
        """Index of the token that the next step samples: behind those known and the one in flight."""
        return max(len(self.token_ids), self.num_computed_tokens + 1)

    @property
    def runs_ahead(self) -> bool:
        """True if the last token is in flight and another will follow, unless a stop comes first."""
        is_in_flight = self.num_computed_tokens >= len(self.token_ids)
        return is_in_flight and len(self.token_ids) + 1 < self.most_tokens

    @property
    def is_finished(self) -> bool:
        """True once the sequence has ended, well or badly."""
        return self.finish_reason is not None or self.failure is not None

    @property
    def needs_prompt_logits(self) -> bool:
        """True while some of the prompt's log-probabilities are asked for and not known yet.

        Each comes from the position before it, which therefore may not be taken from a prefix cache.
        """
        known = self.prompt_logprobs
        return known is not None and len(known) < self.num_prompt_tokens - 1

    @property
    def deadline_s(self) -> float:
        """Time at which the client stops waiting, on this process's monotonic clock; infinity for never."""
        timeout_s = self.request.timeout_s
        return inf if timeout_s is None else self.timeline.arrival_s + timeout_s

    def is_expired(self, now_s: float) -> bool:
        """Return True once the client's deadline has passed."""
        return now_s > self.deadline_s

    def append(self, token_id: int, eos_token_ids: frozenset[int]) -> None:
        """Add a sampled token and note whether it ends the sequence."""
        self.token_ids.append(token_id)
        if self.matcher is not None:
            self.matcher.accept(token_id)
        is_eos = token_id in eos_token_ids and not self.sampling.ignore_eos
        is_complete = self.matcher is not None and self.matcher.is_complete
        if is_eos or is_complete or token_id in self.stop_token_ids:
            self.finish_reason = FinishReason.STOP
        elif len(self.token_ids) >= self.most_tokens:
            self.finish_reason = FinishReason.LENGTH
