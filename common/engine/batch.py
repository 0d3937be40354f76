"""Batch of one engine step, as plain lists: the contract between a scheduler and the ModelRunner."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from common.engine.sequence import Sequence


@dataclass(slots=True)
class BatchEntry:
    """Next `num_tokens` uncomputed tokens of one sequence (1 while it decodes), from position `start`."""

    seq: Sequence
    num_tokens: int
    # kept, since the sequence may be further on by the time that the step's result comes
    start: int = field(init=False)
    num_prompt_tokens: int = field(init=False)  # prefill work: all but a decode step's single token

    def __post_init__(self) -> None:
        seq, num_tokens = self.seq, self.num_tokens
        self.start = start = seq.num_computed_tokens
        is_decode = num_tokens == 1 and start >= seq.num_prompt_tokens
        self.num_prompt_tokens = 0 if is_decode else num_tokens

    @property
    def end(self) -> int:
        """Positions of the sequence that are computed after the step."""
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """True if the step reaches the sequence's last token, known or in flight, and samples the next."""
        return self.start + self.num_tokens >= len(self.seq.token_ids)

    @property
    def scored_positions(self) -> range:
        """Prompt tokens whose log-probabilities this step gives: asked for, and not known yet.

        Those of token i come from the position before it, which this step therefore runs.
        """
        known = self.seq.prompt_logprobs
        if known is None:
            return range(0)
        return range(len(known) + 1, min(self.end + 1, self.seq.num_prompt_tokens))


@dataclass(frozen=True, slots=True)
class Batch:
    """Ragged batch: prefill chunks and decode tokens side by side, no padding."""

    entries: tuple[BatchEntry, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens the step runs."""
        return sum([entry.num_tokens for entry in self.entries])


def cut_chunks(
    sequences: Iterable[Sequence],
    budget: int,
    shorten: Callable[[BatchEntry], BatchEntry] = lambda entry: entry,
) -> list[BatchEntry]:
    """Cut chunked prefill (Sarathi-Serve, Agrawal et al. 2024): in order, each takes the rest of `budget`.

    Tokens that `shorten` takes off a chunk go to the next one; at least one stays. No sequence is asked for
    once the budget is spent, so an iterator may admit sequences as it goes.
    """
    entries: list[BatchEntry] = []
    order = iter(sequences)
    while budget > 0 and (seq := next(order, None)) is not None:
        entries.append(shorten(BatchEntry(seq, min(seq.num_uncomputed_tokens, budget))))
        budget -= entries[-1].num_tokens
    return entries
