"""Predicted cost of each route of a request. Plain numbers; no sockets, no clocks.

A route's cost is the waiting that it causes, in seconds summed over all requests that wait:

- the request itself, until its decode goes on;
- the sequences on the decode worker that stand still meanwhile, and those expected to come;
- generation on the decode worker, where the larger batch slows the others too.

So a short prompt beside few sequences runs where it decodes, and a long one beside many does not.
No threshold says what is short or few.

A worker with an ITL target keeps its steps within it whatever else it runs. Its clients are
promised no more, so a second of theirs counts little beside one before a first token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.profile import WorkerProfile, count_pairs

_WITHIN_TARGET = 0.05  # weight of a second within an answer, for a worker with an ITL target


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, as far as costs depend on it."""

    num_prompt_tokens: int
    num_output_tokens: int  # expected
    arrivals_per_s: float = 0.0  # of all requests, for all decode workers together
    priority: int = 0  # lower goes first
    turn: int = 0  # number of requests sent before


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that can take the request now."""

    name: str
    num_sequences: int = 0  # running and waiting
    backlog_tokens: int = 0  # in prompts that run there before this one
    blocks_free: int = 0
    blocks_total: int = 0
    block_size: int = 1
    num_cached_tokens: int = 0  # of this prompt; never all of it
    overtaken_tokens: int = 0  # in prompts there that this one overtakes
    num_ahead: int = 0  # prompts of this router that run there before this one
    credit_bytes: int = 0  # limit of the KV on its way to the worker
    credit_wanted_bytes: int = 0  # by earlier prompts; beyond credit_bytes they wait
    profile: WorkerProfile = field(default_factory=WorkerProfile)

    @property
    def num_positions(self) -> int:
        """Number of KV positions that the worker's sequences hold, about."""
        return (self.blocks_total - self.blocks_free) * self.block_size

    @property
    def num_places(self) -> int:
        """Number of sequences of their present lengths that the worker can run at once."""
        return self.profile.num_places(self.num_positions / max(self.num_sequences, 1))


@dataclass(frozen=True, slots=True)
class Route:
    """Names of the workers of a request. Without `prefill` the decode worker runs the prompt."""

    decode: str
    prefill: str | None = None


@dataclass(frozen=True, slots=True)
class RouteCost:
    """Cost of a route, in seconds. inference.proto explains its parts."""

    route: Route
    queue_s: float
    prefill_s: float
    transfer_s: float
    interference_s: float
    decode_s: float
    step_s: float  # one decode step of the request
    num_cached_tokens: int
    num_shipped_tokens: int
    run_s: float  # the prompt alone, without hand-off and decode steps: the worker orders by it
    num_ahead: int  # prompts of this router that run before it on the same worker

    @property
    def total_s(self) -> float:
        """Sum of all parts."""
        waiting_s = self.queue_s + self.prefill_s + self.transfer_s
        return waiting_s + self.interference_s + self.decode_s


def predict(
    ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
) -> Iterator[RouteCost]:
    """Yield the cost of every (prefill, decode) pair, and of every decode worker alone."""
    sources = [_Source(ask, candidate) for candidate in prefill]
    for candidate in decode:
        target = _Target(ask, candidate, ask.arrivals_per_s / len(decode))
        yield target.alone()
        for source in sources:
            yield target.behind(source)


def prompt_s(profile: WorkerProfile, num_prompt_tokens: int, num_cached_tokens: int) -> float:
    """Return the seconds that a prompt takes alone, without the tokens that the worker knows."""
    num_new = num_prompt_tokens - num_cached_tokens
    return profile.prompt_s(num_new, count_pairs(num_new, num_cached_tokens))


class _Source:
    """A prefill worker, with the costs that do not depend on the decode worker."""

    def __init__(self, ask: Ask, worker: Candidate) -> None:
        self.worker = worker
        profile, cached = worker.profile, worker.num_cached_tokens
        num_new = ask.num_prompt_tokens - cached
        self.queue_s = _backlog_s(ask, worker, num_decoding=0)
        if not worker.backlog_tokens:
            # a step of overtaken prompts runs already; half is left on average
            num_running = min(worker.overtaken_tokens, profile.max_batch_tokens)
            self.queue_s += profile.prompt_s(num_running, count_pairs(num_running)) / 2
        self.prefill_s = prompt_s(profile, ask.num_prompt_tokens, cached)
        self._last = profile.last_chunk(num_new, 0)
        self._is_one_step = profile.num_steps(num_new, 0) == 1

    def taper(self, num_shipped: int) -> tuple[int, float]:
        """Return the tokens whose KV leaves only after the prompt, and the smaller step's seconds.

        A last step of few tokens lets the KV of all earlier ones leave before it.
        """
        profile, last = self.worker.profile, self._last
        num_late = num_shipped if self._is_one_step else min(num_shipped, last)
        tail = profile.tail(last, num_late)
        if not tail:
            return num_late, 0.0
        apart_s = profile.prompt_s(tail, 0) + profile.prompt_s(last - tail, 0)
        return tail, apart_s - profile.prompt_s(last, 0)


class _Target:
    """A decode worker, with the costs that do not depend on the worker of the prompt."""

    def __init__(self, ask: Ask, worker: Candidate, arrivals_per_s: float) -> None:
        self._ask = ask
        self._worker = worker
        self._arrivals_per_s = arrivals_per_s
        profile, limit = worker.profile, worker.num_places
        # sequences there now decode by the time that this prompt runs
        self._others = others = min(worker.num_sequences, limit)
        self._step_s = profile.decode_step_s(others, worker.num_positions)
        num_later = worker.num_positions + ask.num_prompt_tokens
        self._larger_s = profile.decode_step_s(min(others + 1, limit), num_later)
        slower_s = self._larger_s - self._step_s
        self._weight = _WITHIN_TARGET if profile.itl_target_s else 1.0
        decode_s = ask.num_output_tokens * (self._larger_s + others * slower_s)
        self._decode_s = self._weight * decode_s
        self._room_s = _room_s(ask, worker, self._step_s)
        self._border_s = self._step_s / 2  # half of a running step is left on average

    def alone(self) -> RouteCost:
        """Return the cost if this worker runs the prompt, in steps shared with its sequences."""
        worker, others = self._worker, self._others
        profile, cached = worker.profile, worker.num_cached_tokens
        num_new = self._ask.num_prompt_tokens - cached
        added_s = profile.prompt_s(num_new, count_pairs(num_new, cached), others)
        backlog_s = _backlog_s(self._ask, worker, others)
        prefill_s = added_s + profile.num_steps(num_new, others) * self._step_s
        # requests that come meanwhile are held up by what is left of it, half on average
        disturbed = others + self._arrivals_per_s * prefill_s / 2
        return RouteCost(
            Route(worker.name),
            queue_s=self._room_s + backlog_s + self._border_s,
            prefill_s=prefill_s,
            transfer_s=0.0,
            interference_s=self._weight * disturbed * added_s,
            decode_s=self._decode_s,
            step_s=self._larger_s,
            num_cached_tokens=cached,
            num_shipped_tokens=0,
            run_s=prompt_s(profile, self._ask.num_prompt_tokens, cached),
            num_ahead=worker.num_ahead,
        )

    def behind(self, source: _Source) -> RouteCost:
        """Return the cost if a prefill worker runs the prompt and hands the missing KV off."""
        worker, profile = self._worker, self._worker.profile
        num_shipped = self._ask.num_prompt_tokens - worker.num_cached_tokens
        num_exposed, taper_s = source.taper(num_shipped)
        copies_s = source.worker.profile.copy_out_s(num_exposed) + profile.insert_s(num_exposed)
        insert_state_s = profile.insert_state_s()
        copies_s += source.worker.profile.copy_state_out_s() + insert_state_s
        insert_s = profile.insert_s(num_shipped) + insert_state_s
        credit_s = _credit_s(num_shipped, worker, source.prefill_s + insert_s)
        return RouteCost(
            Route(worker.name, source.worker.name),
            queue_s=self._room_s + source.queue_s + credit_s,
            prefill_s=source.prefill_s + taper_s,
            transfer_s=profile.correction.handoff_s + copies_s + self._border_s,
            interference_s=self._weight * self._others * insert_s,
            decode_s=self._decode_s,
            step_s=self._larger_s,
            num_cached_tokens=source.worker.num_cached_tokens,
            num_shipped_tokens=num_shipped,
            run_s=source.prefill_s,
            num_ahead=source.worker.num_ahead,
        )


def _backlog_s(ask: Ask, worker: Candidate, num_decoding: int) -> float:
    """Return the seconds until earlier prompts have run; each is taken to be as long as this one."""
    num_tokens, profile = worker.backlog_tokens, worker.profile
    if not num_tokens:
        return 0.0
    num_pairs = num_tokens * min(num_tokens, ask.num_prompt_tokens) / 2
    step_s = profile.decode_step_s(num_decoding, worker.num_positions)
    added_s = profile.prompt_s(num_tokens, num_pairs, num_decoding)
    return added_s + profile.num_steps(num_tokens, num_decoding) * step_s


def _room_s(ask: Ask, worker: Candidate, step_s: float) -> float:
    """Return the seconds until there are blocks and a place in the batch.

    All that is held now comes free within the time that one sequence stays, at an even pace
    (Little's law). So the missing part comes free in its share of that time.
    """
    num_wanted = -(-(ask.num_prompt_tokens + 1) // worker.block_size)
    num_held = worker.blocks_total - worker.blocks_free
    blocks = max(num_wanted - worker.blocks_free, 0) / num_held if num_held else 0.0
    limit = worker.num_places
    places = max(worker.num_sequences + 1 - limit, 0) / limit
    return max(blocks, places) * ask.num_output_tokens * step_s


def _credit_s(num_shipped: int, worker: Candidate, pull_s: float) -> float:
    """Return the seconds until KV may leave for a decode worker.

    All of the worker's credit comes free in the time of a pull.
    """
    profile = worker.profile
    num_bytes = num_shipped * profile.kv_bytes_per_token + profile.state_bytes
    num_bytes = min(num_bytes, worker.credit_bytes)
    missing = worker.credit_wanted_bytes + num_bytes - worker.credit_bytes
    return max(missing, 0) / worker.credit_bytes * pull_s if worker.credit_bytes else 0.0
