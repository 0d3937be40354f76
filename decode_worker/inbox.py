"""KV on its way into a decode worker.

1. `start` opens the pull of a sequence that has its blocks (`DecodeAdmission.next_pull`).
2. The pull's thread asks the chosen prefill worker for the rest of the prompt (decode pulls). It delivers
   what arrives, no more ahead of its insertion than the pull was charged for (pull_credit.py).
3. `collect` (before each step) hands token 1 over at once. It copies at most the tokens of `inserts_per_step`
   whole steps into the reserved blocks, so that arriving KV never holds a step up for long.
4. With all KV inserted and token 1 known the sequence joins the batch at token 2; nothing is recomputed.
5. If prefill fails or an item is refused, the sequence is handed over as it is: decode computes the rest.
   A prompt whose answer ends with token 1 gets no more KV, which looks the same; the engine can tell.
6. `discard` (cancel, deadline, end) closes the stream, which tells prefill, and gives the credit back; items
   that come later are dropped. The blocks are the sequence's: whoever ends it releases them.
"""

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from common.config import TransferConfig
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.engine.state.cache import StateCache, StateError
from common.kv_transfer.layout import KVLayout
from common.kv_transfer.transport import KVTransport
from common.kv_transfer.wire import FailureHeader, FirstTokenHeader, WireError
from common.ledger import StreamUse
from common.telemetry.logs import get_logger
from decode_worker.pull import Chunk, FirstToken, News, Pull, PullFailed, StatePiece
from decode_worker.pull_credit import PullCredit

_log = get_logger()


@dataclass(slots=True)
class Collected:
    """Arrivals that one `collect` took in."""

    first_tokens: list[tuple[Sequence, FirstTokenHeader]] = field(default_factory=list)
    ready: list[Sequence] = field(default_factory=list)
    orphaned: list[tuple[Sequence, str]] = field(default_factory=list)  # without a stream, and why
    failures: list[tuple[Sequence, FailureHeader]] = field(default_factory=list)
    num_bytes: int = 0
    num_rejected: int = 0


class Inbox:
    """Owns the pulls under way. All methods but `_deliver` run in the engine's thread."""

    def __init__(
        self,
        prefix: PrefixCache,
        cache: KVCache,
        costs: Costs,
        layout: KVLayout,
        transport: KVTransport,
        config: TransferConfig,
        wake: Callable[[], None],
        credit: PullCredit,
        states: StateCache | None = None,
    ) -> None:
        self._prefix = prefix
        self._cache = cache
        self._states = states
        self._costs = costs
        self._layout = layout
        self._transport = transport
        self._config = config
        self._wake = wake
        self._max_insert_tokens = config.inserts_per_step * costs.profile.max_batch_tokens
        self._threads = ThreadPoolExecutor(config.max_concurrent_pulls, "kv-pull")
        self._arrivals: queue.SimpleQueue[tuple[Pull, News, float]] = queue.SimpleQueue()
        self.credit = credit
        self.pulls: dict[Sequence, Pull] = {}

    @property
    def num_missing_tokens(self) -> int:
        """Number of tokens of pulled prompts whose KV is not inserted yet."""
        return sum(seq.num_uncomputed_tokens for seq in self.pulls)

    @property
    def has_news(self) -> bool:
        """True if something arrived that `collect` has not handed over."""
        return not self._arrivals.empty()

    def stream_use(self) -> StreamUse:
        """Return the pulls under way, and what they are charged."""
        return StreamUse(len(self.pulls), self.credit.taken_bytes)

    def start(self, seq: Sequence) -> None:
        """Open the pull of a sequence that holds its blocks, and charge it."""
        pull = Pull(seq, self._layout, time.monotonic(), self.credit)
        seq.timeline.remote = pull.remote
        self.pulls[seq] = pull
        self.credit.taken_bytes += pull.charged_bytes
        self._threads.submit(pull.run, self._transport, self._config.item_timeout_s, self._deliver)

    def collect(self) -> Collected:
        """Take in what has arrived (steps 3 to 5 above)."""
        found = Collected()
        left = self._max_insert_tokens
        num_tokens = 0  # of the last chunk: the next is taken to be as long
        while left >= num_tokens and left > 0 and not self._arrivals.empty():
            pull, news, at_s = self._arrivals.get()
            if self.pulls.get(pull.seq) is not pull:
                continue  # discarded meanwhile
            if isinstance(news, Chunk):
                num_tokens = news.num_tokens
                left -= num_tokens
                self._insert(pull, news, at_s, found)
            elif isinstance(news, StatePiece):
                num_tokens = -(-len(news.state) // self._layout.num_bytes(1))
                left -= num_tokens
                self._insert_state(pull, news, at_s, found)
            elif isinstance(news, FirstToken):
                self._take_first_token(pull, news, at_s, found)
            else:
                self._take_failure(pull.seq, news, found)
        return found

    def discard(self, seq: Sequence) -> None:
        """End a sequence's pull, if it has one; the caller releases its blocks."""
        pull = self.pulls.pop(seq, None)
        if pull is not None:
            self.credit.taken_bytes -= pull.charged_bytes
            pull.close()

    def close(self) -> None:
        """Stop the pull threads without waiting for them."""
        for pull in self.pulls.values():
            pull.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, pull: Pull, news: News) -> None:
        self._arrivals.put((pull, news, time.monotonic()))
        self._wake()

    def _insert(self, pull: Pull, chunk: Chunk, at_s: float, found: Collected) -> None:
        seq, num_tokens = pull.seq, chunk.num_tokens
        start_s = time.monotonic()
        self._cache.write(seq.block_table, chunk.start, chunk.kv)
        end_s = time.monotonic()
        pull.note_inserted()
        self._costs.note_insert(chunk.num_bytes, end_s - start_s)
        inserted = start_s, end_s
        pull.remote.note_transfer(chunk.copied, at_s, inserted, num_tokens, chunk.num_bytes)
        seq.num_computed_tokens = chunk.start + num_tokens
        self._prefix.publish(seq)
        seq.timeline.kv_bytes += chunk.num_bytes
        found.num_bytes += chunk.num_bytes
        self._finish_if_ready(pull, found)

    def _insert_state(self, pull: Pull, piece: StatePiece, at_s: float, found: Collected) -> None:
        """Copy a piece of the state into the sequence's slot; the last one makes it whole."""
        seq, num_bytes = pull.seq, len(piece.state)
        if self._states is None or seq.state_slot is None:
            raise StateError("a state came where none is kept")
        start_s = time.monotonic()
        self._states.write(seq.state_slot, piece.start, piece.state)
        if piece.start + num_bytes == self._layout.state_bytes:
            self._states.complete(seq.state_slot, seq.num_computed_tokens)
            pull.is_state_taken = True
        end_s = time.monotonic()
        pull.note_inserted()
        pull.remote.note_transfer(piece.copied, at_s, (start_s, end_s), 0, num_bytes)
        seq.timeline.kv_bytes += num_bytes
        found.num_bytes += num_bytes
        self._finish_if_ready(pull, found)

    def _take_first_token(
        self, pull: Pull, news: FirstToken, at_s: float, found: Collected
    ) -> None:
        header, timeline = news.header, pull.seq.timeline
        pull.seq.prompt_logprobs = news.prompt_logprobs
        timeline.num_cached_tokens = header.num_cached_tokens
        pull.remote.note_first_token(header.chunks, header.sent_s, at_s)
        found.first_tokens.append((pull.seq, header))
        pull.is_token_taken = True
        self._finish_if_ready(pull, found)

    def _take_failure(
        self, seq: Sequence, news: FailureHeader | PullFailed, found: Collected
    ) -> None:
        self.discard(seq)
        # With all KV but no token 1, the last position is computed again to sample it. A state belongs to
        # one position, and comes last: without it the prompt is computed again from its start.
        limit = 0 if self._layout.state_bytes else len(seq.token_ids) - 1
        seq.num_computed_tokens = min(seq.num_computed_tokens, limit)
        if isinstance(news, FailureHeader):
            found.failures.append((seq, news))
            return
        found.num_rejected += isinstance(news.error, WireError)
        found.orphaned.append((seq, repr(news.error)))

    def _finish_if_ready(self, pull: Pull, found: Collected) -> None:
        seq = pull.seq
        has_kv = seq.num_computed_tokens == seq.num_given_tokens
        if pull.is_token_taken and pull.is_state_taken and has_kv:
            self.discard(seq)
            found.ready.append(seq)
