"""What work costs on one worker, as plain numbers that a router, a scheduler or a simulator can reckon with.

A step's time is read off a curve over its rows (tokens run, whoever they belong to), since that is what
its matrix products depend on; attention is added for each prompt token and position before it, and for
each position that a decoding sequence reads. `common/engine/profiling/profiler.py` measures the numbers.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

_LEAST_CHUNK = 16  # tokens


def count_pairs(num_tokens: int, start: int = 0) -> float:
    """Pairs of a prompt token and a position at or before it, for `num_tokens` from position `start`."""
    return num_tokens * (start + num_tokens / 2)


class Correction(NamedTuple):
    """What a worker has seen since it measured itself. Factors multiply the profile's seconds."""

    prefill: float = 1.0
    decode: float = 1.0
    copy_out: float = 1.0
    insert: float = 1.0
    handoff_s: float = 0.005  # from prefill's end to decode's step, beside copies and step borders


@dataclass(frozen=True, slots=True)
class WorkerProfile:
    """One worker's costs in seconds, and how much it runs at once. The defaults are guesses.

    `row_seconds[i]` is a step of `row_counts[i]` rows (ascending) without attention; `sample_s` is added
    for each decoding sequence, `position_s` for each position that these hold, `pair_s` for each prompt
    token and position at or before it.
    """

    row_counts: tuple[int, ...] = (1, 512)
    row_seconds: tuple[float, ...] = (0.01, 0.1)
    sample_s: float = 1e-4
    position_s: float = 1e-6
    pair_s: float = 1e-7
    copy_out_byte_s: float = 5e-10
    insert_byte_s: float = 5e-10
    kv_bytes_per_token: int = 2**14
    max_batch_tokens: int = 512
    max_num_seqs: int = 64
    itl_target_s: float = 0.0  # for a step's time; 0: none
    correction: Correction = field(default_factory=Correction)

    def is_sound(self) -> bool:
        """Whether it can be reckoned with: numbers from a disk or a peer may be anything."""
        counts, seconds = self.row_counts, self.row_seconds
        rates = (self.sample_s, self.position_s, self.pair_s, self.copy_out_byte_s)
        others = (self.insert_byte_s, self.itl_target_s)
        costs = (*seconds, *rates, *others, *self.correction)
        return (
            len(counts) == len(seconds) >= 2
            and counts[0] > 0
            and all(low < high for low, high in pairwise(counts))
            and all(math.isfinite(cost) and cost >= 0 for cost in costs)
            and min(self.max_batch_tokens, self.max_num_seqs) >= 1
            and self.kv_bytes_per_token >= 0
        )

    def decode_step_s(self, num_sequences: int, num_positions: int) -> float:
        """A step in which so many sequences decode, which hold so many positions together."""
        if not num_sequences:
            return 0.0
        attention_s = num_sequences * self.sample_s + num_positions * self.position_s
        return self.correction.decode * (self._rows_s(num_sequences) + attention_s)

    def can_run_step(self, num_sequences: int, num_positions: int) -> bool:
        """Return True if so many sequences may decode in one step, by max_num_seqs and the ITL target."""
        if num_sequences <= 1 or num_sequences > self.max_num_seqs or not self.itl_target_s:
            return num_sequences <= self.max_num_seqs
        return self.decode_step_s(num_sequences, num_positions) <= self.itl_target_s

    def num_places(self, num_positions_each: float) -> int:
        """The most sequences of so many positions that may decode together."""
        counts = range(1, self.max_num_seqs + 1)
        most = bisect_left(
            counts, True, key=lambda n: not self.can_run_step(n, round(n * num_positions_each))
        )
        return max(most, 1)

    def prompt_budget(self, num_decoding: int, num_positions: int = 0, start: int = 0) -> int:
        """Prompt tokens that a step may run beside `num_decoding` sequences of `num_positions` positions.

        What max_batch_tokens leaves and, where there is an ITL target, what brings the step up to it; but at
        least a few, or the prompt would never end. `start` is how much of the prompt lies before them.
        """
        most = max(self.max_batch_tokens - num_decoding, 1)
        if not self.itl_target_s or not num_decoding:
            return most
        left_s = self.itl_target_s - self.decode_step_s(num_decoding, num_positions)

        def is_too_long(num_tokens: int) -> bool:
            pairs_s = count_pairs(num_tokens, start) * self.pair_s
            rows_s = self._added_s(num_tokens, num_decoding)
            return self.correction.prefill * (rows_s + pairs_s) > left_s

        fitting = bisect_left(range(1, most + 1), True, key=is_too_long)
        return max(fitting, min(_LEAST_CHUNK, most))

    def num_steps(self, num_tokens: int, num_decoding: int) -> int:
        """Steps that a prompt's `num_tokens` take beside so many decoding sequences."""
        return -(-num_tokens // self.prompt_budget(num_decoding))

    def last_chunk(self, num_tokens: int, num_decoding: int) -> int:
        """Tokens in the last of these steps."""
        chunk = self.prompt_budget(num_decoding)
        return num_tokens % chunk or min(num_tokens, chunk)

    def tail(self, num_tokens: int, num_late: int) -> int:
        """Of a prompt's last tokens, which one step could run, how many to leave to a step of their own.

        The KV of the others leaves meanwhile; what is left to send when the prompt ends then takes about one
        decode step. `num_late` is of how many tokens KV would leave after that one step. 0 where the further
        step takes longer than that saves.
        """
        copy_s = self.copy_out_s(1) + self.insert_s(1)
        most = int(self.decode_step_s(1, 0) / copy_s) if copy_s else num_tokens
        tail = max(most, _LEAST_CHUNK)
        num_before = num_tokens - tail
        if num_before <= 0:
            return 0
        step_s = self._rows_s(tail) + self._rows_s(num_before) - self._rows_s(num_tokens)
        return tail if (num_late - tail) * copy_s > self.correction.prefill * step_s else 0

    def prompt_s(self, num_tokens: int, num_pairs: float, num_decoding: int = 0) -> float:
        """What prompt tokens add to the steps that run them; with nobody decoding, all of their time."""
        chunk = self.prompt_budget(num_decoding)
        num_full, rest = divmod(num_tokens, chunk)
        rows_s = num_full * self._added_s(chunk, num_decoding) + self._added_s(rest, num_decoding)
        return self.correction.prefill * (rows_s + num_pairs * self.pair_s)

    def copy_out_s(self, num_tokens: int) -> float:
        """Copying the KV of so many tokens out of the blocks."""
        num_bytes = num_tokens * self.kv_bytes_per_token
        return self.correction.copy_out * num_bytes * self.copy_out_byte_s

    def insert_s(self, num_tokens: int) -> float:
        """Copying the KV of so many tokens into blocks."""
        num_bytes = num_tokens * self.kv_bytes_per_token
        return self.correction.insert * num_bytes * self.insert_byte_s

    def _added_s(self, num_rows: int, num_decoding: int) -> float:
        if not num_rows:
            return 0.0
        return self._rows_s(num_decoding + num_rows) - self._rows_s(num_decoding)

    def _rows_s(self, num_rows: int) -> float:
        """The curve: straight lines between the points, the last one's slope beyond them."""
        if num_rows <= 0:
            return 0.0
        counts, seconds = self.row_counts, self.row_seconds
        at = min(max(bisect_left(counts, num_rows), 1), len(counts) - 1)
        low, high = counts[at - 1], counts[at]
        slope = (seconds[at] - seconds[at - 1]) / (high - low)
        return max(seconds[at - 1] + slope * (num_rows - low), 0.0)
