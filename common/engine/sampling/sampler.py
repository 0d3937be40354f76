"""Sampling of tokens from logits, with counter-based random numbers.

The noise of a draw is a function of (seed, position, token id) alone (noise.py). So a request gets the same
tokens in any batch, on any worker, before and after preemption. In order: logit bias, penalties, the masks of
grammar, min_tokens, bad words and allowed tokens together, temperature, top k, top p, min p, draw (the order
of `transformers`). So a forbidden token stays so, whatever a bias adds to it. Log-probabilities come before
all that.
"""

from collections.abc import Sequence as SequenceOf
from functools import cache
from typing import NamedTuple, Protocol

import torch

from common.engine.kernel_checks.verdicts import trusted_sampling
from common.engine.sampling import torch_kernels
from common.engine.sampling.grammar_masks import PendingMasks
from common.engine.sampling.logprobs import score
from common.engine.sampling.noise import noise_key
from common.engine.sampling.options import Adjustments, Truncation
from common.engine.sampling.token_masks import TokenMasks, find_masks
from common.engine.sequence import Sequence
from common.messages import TokenLogprobs

COLDEST = 1e-6  # greedy in effect; the inverse of a much lower temperature overflows float32


class Sample(NamedTuple):
    """Sampled token.

    It is meaningless when `is_finite` is False, as the logits held NaN or infinity, or when `has_choice` is
    False, as every token was forbidden.
    """

    token_id: int
    is_finite: bool = True
    logprobs: TokenLogprobs | None = None
    has_choice: bool = True


class SamplingKernels(Protocol):
    """Kernels of one device: torch_kernels for all, cpu.sampling for host memory. Both are modules."""

    def greedy_tokens(self, logits: torch.Tensor) -> tuple[list[int], list[bool]]:
        """Return the likeliest token of each row of [n, vocab], first of equals, and if the row is finite."""

    def draw_tokens(
        self, logits: torch.Tensor, rows: list[int], temperatures: list[float], keys: list[int]
    ) -> list[int]:
        """Draw from softmax(logits / temperature) of the listed rows by the noise of `keys`; never a -inf."""

    def adjust(
        self, logits: torch.Tensor, rows: list[int], adjustments: Adjustments
    ) -> torch.Tensor:
        """Return a float32 copy [m, vocab] of the m listed rows, adjusted."""

    def truncate(self, logits: torch.Tensor, truncation: Truncation) -> None:
        """Put -inf in [m, vocab], float32, where a token may not be drawn. At least one stays in each row."""


def sample(
    logits: torch.Tensor,
    sequences: SequenceOf[Sequence],
    eos_token_ids: frozenset[int],
    grammars: PendingMasks | None = None,
) -> list[Sample]:
    """Choose one token for each row of `logits` [n, vocab]; row i belongs to `sequences[i]`.

    The position that seeds a draw is the index the new token will have in the whole sequence. `grammars` are
    the masks of sequences that have one. Masks are applied in place.
    """
    kernels = _cpu_kernels() if logits.is_cpu else torch_kernels
    special = [r for r, seq in enumerate(sequences) if not seq.is_plain_greedy]
    if not special and grammars is None:
        return list(map(Sample, *kernels.greedy_tokens(logits)))
    masks = find_masks(grammars, sequences, special, eos_token_ids, logits.shape[-1])
    unmasked = logits
    if masks is not None:
        if any(sequences[r].sampling.logprobs is not None for r in special):
            unmasked = logits.clone()
        # rows that are adjusted are masked behind that
        masks.apply(logits, {r: r for r in masks.rows if sequences[r].sampling.is_plain})
    tokens, finite = kernels.greedy_tokens(logits)
    rows = [r for r in special if finite[r]]
    plain = [r for r in rows if sequences[r].sampling.is_plain]
    if plain:
        _draw_warm(kernels, logits, plain, [sequences[r] for r in plain], plain, tokens)
    shaped = [r for r in rows if not sequences[r].sampling.is_plain]
    if shaped:
        _choose_shaped(kernels, logits, shaped, sequences, masks, tokens)
    samples = list(map(Sample, tokens, finite, _score(unmasked, rows, sequences, tokens)))
    for row in masks.closed_rows if masks else ():
        samples[row] = samples[row]._replace(has_choice=False)
    return samples


def _choose_shaped(
    kernels: SamplingKernels,
    logits: torch.Tensor,
    rows: list[int],
    sequences: SequenceOf[Sequence],
    masks: TokenMasks | None,
    tokens: list[int],
) -> None:
    """Set the tokens of rows whose distribution is not the model's own."""
    asking = [sequences[r] for r in rows]
    shaped = kernels.adjust(logits, rows, Adjustments.of(asking))
    if masks is not None:
        masks.apply(shaped, {row: place for place, row in enumerate(rows)})
    for row, token in zip(rows, kernels.greedy_tokens(shaped)[0], strict=True):
        tokens[row] = token
    if any(seq.sampling.is_truncated for seq in asking):
        temperatures = [max(seq.sampling.temperature, COLDEST) for seq in asking]
        kernels.truncate(shaped, Truncation.of(asking, temperatures))
    _draw_warm(kernels, shaped, list(range(len(rows))), asking, rows, tokens)


def _draw_warm(
    kernels: SamplingKernels,
    logits: torch.Tensor,
    rows: list[int],
    sequences: list[Sequence],
    places: list[int],
    tokens: list[int],
) -> None:
    """Draw from `logits[row]` and set `tokens[place]`, for sequences with a temperature."""
    warm = [i for i, seq in enumerate(sequences) if seq.sampling.temperature > 0]
    if not warm:
        return
    temperatures = [max(sequences[i].sampling.temperature, COLDEST) for i in warm]
    keys = [noise_key(sequences[i].sampling.seed, sequences[i].next_position) for i in warm]
    drawn = kernels.draw_tokens(logits, [rows[i] for i in warm], temperatures, keys)
    for i, token in zip(warm, drawn, strict=True):
        tokens[places[i]] = token


def _score(
    logits: torch.Tensor, rows: list[int], sequences: SequenceOf[Sequence], tokens: list[int]
) -> list[TokenLogprobs | None]:
    """Return log-probabilities of the chosen tokens, for sequences that ask for them."""
    scores: list[TokenLogprobs | None] = [None] * len(tokens)
    num_top = {r: count for r in rows if (count := sequences[r].sampling.logprobs) is not None}
    if num_top:
        asked = list(num_top)
        found = score(logits[asked], [tokens[r] for r in asked], list(num_top.values()))
        for row, entry in zip(asked, found, strict=True):
            scores[row] = entry
    return scores


@cache
def _cpu_kernels() -> SamplingKernels:
    if trusted_sampling() is not None:
        return torch_kernels
    # numba takes 0.3 s to import; a CUDA worker never needs it
    from common.engine.cpu import sampling

    return sampling
