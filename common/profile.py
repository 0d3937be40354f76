"""Costs of work on one worker, as plain numbers for routers, schedulers and simulators.

A step's time is read off a curve over its rows (tokens run, of all sequences), on which the time of its
matrix products depends. Attention is added for each prompt token and position before it, and for each
position that a decoding sequence reads. `common/engine/profiling/profiler.py` measures the numbers.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

_LEAST_CHUNK = 16  # tokens


def count_pairs(num_tokens: int, start: int = 0) -> float:
    """Count pairs of a prompt token and a position at or before it, for `num_tokens` from `start` on."""
    return num_tokens * (start + num_tokens / 2)


class Correction(NamedTuple):
    """Factors that a worker has observed since it measured itself; they multiply the profile's seconds."""

    prefill: float = 1.0
    decode: float = 1.0
    copy_out: float = 1.0
    insert: float = 1.0
    handoff_s: float = 0.005  # from prefill's end to decode's step, beside copies and step borders


@dataclass(frozen=True, slots=True)
class WorkerProfile:
    """Costs of one worker in seconds, and the sizes that it runs at once. The defaults are guesses.

    `row_seconds[i]` is a step of `row_counts[i]` rows (ascending) without attention. Added are `sample_s` for
    each decoding sequence, `position_s` for each position that these hold, and `pair_s` for each pair of a
    prompt token and a position at or before it.
    """

    row_counts: tuple[int, ...] = (1, 512)
    row_seconds: tuple[float, ...] = (0.01, 0.1)
    sample_s: float = 1e-4
    position_s: float = 1e-6
    pair_s: float = 1e-7
    copy_out_byte_s: float = 5e-10
    insert_byte_s: float = 5e-10
    kv_bytes_per_token: int = 2**14
    state_bytes: int = 0  # of one sequence; they ship behind its KV
    max_batch_tokens: int = 512
    max_num_seqs: int = 64
    itl_target_s: float = 0.0  # for a step's time; 0: none
    correction: Correction = field(default_factory=Correction)

    def is_sound(self) -> bool:
        """Return True if the numbers are usable: those from a disk or a peer may be anything."""
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
            and min(self.kv_bytes_per_token, self.state_bytes) >= 0
        )

    def decode_step_s(self, num_sequences: int, num_positions: int) -> float:
        """Return the seconds of a step in which `num_sequences` decode, with `num_positions` in all."""
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
        """Return the most sequences of `num_positions_each` positions that may decode together."""
        counts = range(1, self.max_num_seqs + 1)
        most = bisect_left(
            counts, True, key=lambda n: not self.can_run_step(n, round(n * num_positions_each))
        )
        return max(most, 1)

    def prompt_budget(self, num_decoding: int, num_positions: int = 0, start: int = 0) -> int:
        """Return the prompt tokens a step may run beside `num_decoding` sequences of `num_positions` in all.

        They fill the step up to max_batch_tokens and, where there is one, up to the ITL target; a few run
        always, or the prompt would never end. `start` positions of the prompt lie before them.
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
        """Return the steps that a prompt's `num_tokens` take beside `num_decoding` decoding sequences."""
        return -(-num_tokens // self.prompt_budget(num_decoding))

    def last_chunk(self, num_tokens: int, num_decoding: int) -> int:
        """Return the tokens in the last of these steps."""
        chunk = self.prompt_budget(num_decoding)
        return num_tokens % chunk or min(num_tokens, chunk)

    def tail(self, num_tokens: int, num_late: int) -> int:
        """Return how many of a prompt's last `num_tokens`, which one step could run, get a step of their own.

        The KV of the others leaves meanwhile, so that the rest takes about one decode step to send.
        `num_late` tokens' KV would leave after that one step. 0 where a further step costs more than it
        saves.
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
        """Return the seconds that prompt tokens add to their steps; with nobody decoding, all of the time."""
        chunk = self.prompt_budget(num_decoding)
        num_full, rest = divmod(num_tokens, chunk)
        rows_s = num_full * self._added_s(chunk, num_decoding) + self._added_s(rest, num_decoding)
        return self.correction.prefill * (rows_s + num_pairs * self.pair_s)

    def copy_out_s(self, num_tokens: int) -> float:
        """Return the seconds of copying the KV of `num_tokens` out of the blocks."""
        num_bytes = num_tokens * self.kv_bytes_per_token
        return self.correction.copy_out * num_bytes * self.copy_out_byte_s

    def insert_s(self, num_tokens: int) -> float:
        """Return the seconds of copying the KV of `num_tokens` into blocks."""
        num_bytes = num_tokens * self.kv_bytes_per_token
        return self.correction.insert * num_bytes * self.insert_byte_s

    def copy_state_out_s(self) -> float:
        """Return the seconds of copying a sequence's state out; 0 for a model without state."""
        return self.correction.copy_out * self.state_bytes * self.copy_out_byte_s

    def insert_state_s(self) -> float:
        """Return the seconds of copying a sequence's state in."""
        return self.correction.insert * self.state_bytes * self.insert_byte_s

    def _added_s(self, num_rows: int, num_decoding: int) -> float:
        if not num_rows:
            return 0.0
        return self._rows_s(num_decoding + num_rows) - self._rows_s(num_decoding)

    def _rows_s(self, num_rows: int) -> float:
        """Read the curve: straight lines between the points, the last one's slope beyond them."""
        if num_rows <= 0:
            return 0.0
        counts, seconds = self.row_counts, self.row_seconds
        at = min(max(bisect_left(counts, num_rows), 1), len(counts) - 1)
        low, high = counts[at - 1], counts[at]
        slope = (seconds[at] - seconds[at - 1]) / (high - low)
        return max(seconds[at - 1] + slope * (num_rows - low), 0.0)
