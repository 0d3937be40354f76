"""KV on its way into a decode worker.

1. `add`: the sequence waits, first come first served.
2. `admit` (before each step): if the batch has room, blocks for the prompt and its first token are free
   and transfer credit is left, the blocks are reserved, known prefixes first, and a pull thread starts.
3. The thread asks the chosen prefill worker for the rest of the prompt (decode pulls) and delivers what
   arrives, no more ahead of its insertion than the pull was charged for (pull_credit.py).
4. `collect` (before each step) hands over token 1 at once, and copies no more tokens into the reserved
   blocks than `inserts_per_step` chunks of a whole step have: arriving KV never holds a step up for long.
5. With all KV in and token 1 known the sequence joins the batch at token 2; nothing is recomputed.
6. If prefill fails or an item is refused, the sequence is handed over as it is: decode computes the rest.
   A prompt whose answer ends with token 1 gets no more KV, which looks the same; the engine can tell.
7. `discard` (cancel, deadline, end): the stream is closed, prefill told, credit back; late items are dropped.

Blocks are always held by the sequence (`seq.block_table`); whoever ends the sequence releases them.
"""

import queue
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from common.config import TransferConfig
from common.engine.memory.kv_cache import KVCache
from common.engine.memory.prefix_cache import PrefixCache
from common.engine.memory.waiting_queue import MAX_PASSES, WaitingQueue
from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.kv_transfer.layout import KVLayout
from common.kv_transfer.node_store import UNLIMITED, NodeStore
from common.kv_transfer.transport import KVTransport
from common.kv_transfer.wire import FailureHeader, FirstTokenHeader, WireError
from common.telemetry.logs import get_logger
from decode_worker.pull import Chunk, FirstToken, News, Pull, PullFailed
from decode_worker.pull_credit import PullCredit
from decode_worker.scheduler import in_turn, urgency

_log = get_logger()


@dataclass(slots=True)
class Collected:
    """What `collect` found."""

    first_tokens: list[tuple[Sequence, FirstTokenHeader]] = field(default_factory=list)
    ready: list[Sequence] = field(default_factory=list)
    orphaned: list[tuple[Sequence, str]] = field(default_factory=list)  # and why
    failures: list[tuple[Sequence, FailureHeader]] = field(default_factory=list)
    num_bytes: int = 0
    num_rejected: int = 0
    is_empty: bool = True


class Inbox:
    """Owns waiting and arriving sequences. All methods run on the engine's thread, `_deliver` apart."""

    def __init__(
        self,
        prefix: PrefixCache,
        cache: KVCache,
        costs: Costs,
        layout: KVLayout,
        transport: KVTransport,
        config: TransferConfig,
        wake: Callable[[], None],
        store: NodeStore = UNLIMITED,
    ) -> None:
        self._prefix = prefix
        self._cache = cache
        self._costs = costs
        self._layout = layout
        self._transport = transport
        self._config = config
        self._wake = wake
        self._max_insert_tokens = config.inserts_per_step * costs.profile.max_batch_tokens
        self._threads = ThreadPoolExecutor(config.max_concurrent_pulls, "kv-pull")
        self._arrivals: queue.SimpleQueue[tuple[Pull, News, float]] = queue.SimpleQueue()
        self._credit = PullCredit(config, layout, store)
        self._held_up: Sequence | None = None  # first in turn, and the last `admit` found no room
        self._num_refusals = 0  # of that one, in a row
        self.waiting = WaitingQueue()
        self.pulls: dict[Sequence, Pull] = {}

    @property
    def num_waiting_tokens(self) -> int:
        """Prompt tokens whose KV is not here yet."""
        return self.waiting.num_tokens + sum(seq.num_uncomputed_tokens for seq in self.pulls)

    @property
    def has_news(self) -> bool:
        """Whether something arrived that `collect` has not handed over."""
        return not self._arrivals.empty()

    @property
    def credit_bytes(self) -> int:
        """KV that may be on its way here."""
        return self._credit.total_bytes

    @property
    def credit_wanted_bytes(self) -> int:
        """What those on their way are charged and those that wait would have been when they came."""
        return self._credit.taken_bytes + self._credit.wanted_bytes

    def add(self, seq: Sequence) -> None:
        """Queue a sequence whose prompt runs on a prefill worker."""
        self.waiting.append(seq)
        self._credit.want(seq)

    def admit(
        self, can_admit: Callable[[Sequence, Collection[Sequence]], bool], keep_free: int
    ) -> None:
        """Start as many pulls as slots, blocks and credit allow."""
        if not self.waiting:
            self._held_up = None
            return
        refused: list[Sequence] = []

        def enters(seq: Sequence) -> bool:
            if not self._credit.can_pull(seq):
                return False
            watermark = keep_free if self._prefix.pool.num_held else 0
            if can_admit(seq, self.pulls.keys()) and self._prefix.reserve(
                seq, seq.num_prompt_tokens + 1, keep_free=watermark
            ):
                return True
            refused.append(seq)
            return False

        while len(self.pulls) < self._config.max_concurrent_pulls:
            seq = self.waiting.take(enters, urgency)
            if seq is None:
                break
            self._start(seq)
        self._note_refused(refused)

    def goes_before(self, seq: Sequence) -> bool:
        """Whether the first that waits here, for room and nothing else, is to enter before `seq`.

        It is where it came sooner and was refused long, or is more urgent.
        """
        first = self._held_up
        if first is None or in_turn(first) >= in_turn(seq):
            return False
        return self._num_refusals >= MAX_PASSES or urgency(first) < urgency(seq)

    def collect(self) -> Collected:
        """Take in what has arrived; see steps 4 to 6 above."""
        found = Collected()
        left = self._max_insert_tokens
        num_tokens = 0  # of the last chunk: the next is taken to be as long
        while left >= num_tokens and left > 0 and not self._arrivals.empty():
            pull, news, at_s = self._arrivals.get()
            found.is_empty = False
            if self.pulls.get(pull.seq) is not pull:
                continue  # discarded meanwhile
            if isinstance(news, Chunk):
                num_tokens = news.kv.shape[2]
                left -= num_tokens
                self._insert(pull, news, at_s, found)
            elif isinstance(news, FirstToken):
                self._take_first_token(pull, news, at_s, found)
            else:
                self._take_failure(pull.seq, news, found)
        return found

    def discard(self, seq: Sequence) -> None:
        """Forget a sequence, wherever it stands; its blocks are the caller's to release."""
        if seq in self.waiting:
            self.waiting.remove(seq)
            self._credit.unwant(seq)
        pull = self.pulls.pop(seq, None)
        if pull is not None:
            self._credit.taken_bytes -= pull.charged_bytes
            pull.close()

    def close(self) -> None:
        """Stop the pull threads without waiting for them."""
        for pull in self.pulls.values():
            pull.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _note_refused(self, refused: list[Sequence]) -> None:
        if not refused:
            self._held_up = None
            return
        in_need = (seq for seq in self.waiting if not self._prefix.is_led(seq))
        first = min(in_need, key=in_turn, default=None)
        if first not in refused:
            first = None
        self._num_refusals = self._num_refusals + 1 if first is self._held_up else 1
        self._held_up = first

    def _start(self, seq: Sequence) -> None:
        self._credit.unwant(seq)
        pull = Pull(seq, self._layout, time.monotonic(), self._credit)
        seq.timeline.remote = pull.remote
        self.pulls[seq] = pull
        self._credit.taken_bytes += pull.charged_bytes
        self._threads.submit(pull.run, self._transport, self._config.item_timeout_s, self._deliver)

    def _deliver(self, pull: Pull, news: News) -> None:
        self._arrivals.put((pull, news, time.monotonic()))
        self._wake()

    def _insert(self, pull: Pull, chunk: Chunk, at_s: float, found: Collected) -> None:
        seq, num_tokens = pull.seq, chunk.kv.shape[2]
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
        # With all KV but no token 1, the last position is computed again to sample it.
        seq.num_computed_tokens = min(seq.num_computed_tokens, len(seq.token_ids) - 1)
        if isinstance(news, FailureHeader):
            found.failures.append((seq, news))
            return
        found.num_rejected += isinstance(news.error, WireError)
        found.orphaned.append((seq, repr(news.error)))

    def _finish_if_ready(self, pull: Pull, found: Collected) -> None:
        seq = pull.seq
        if pull.is_token_taken and seq.num_computed_tokens == seq.num_prompt_tokens:
            self.discard(seq)
            found.ready.append(seq)
