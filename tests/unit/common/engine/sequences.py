"""Sequences for tests, in the state that a test wants."""

from collections.abc import Iterable

from common.engine.memory.block_pool import BlockPool
from common.engine.sequence import Sequence
from common.engine.timeline import Timeline
from common.messages import SamplingParams, WorkRequest

NO_EOS: frozenset[int] = frozenset()


def make_sequence(
    prompt: Iterable[int] | int,
    sampling: SamplingParams | None = None,
    *,
    max_tokens: int = 4,
    computed: int = 0,
    request_id: str = "r",
    timeout_s: float | None = None,
    priority: int = 0,
) -> Sequence:
    """Make a sequence of these prompt tokens, or of so many, with `computed` positions done; greedy."""
    tokens = range(1, prompt + 1) if isinstance(prompt, int) else prompt
    sampling = sampling or SamplingParams(temperature=0.0, seed=0, max_tokens=max_tokens)
    request = WorkRequest(
        request_id, 0, tuple(tokens), sampling, timeout_s=timeout_s, priority=priority
    )
    seq = Sequence(request, Timeline(arrival_s=0.0))
    seq.num_computed_tokens = computed
    return seq


def make_decoding(
    prompt: int, *outputs: int, max_tokens: int = 100, request_id: str = "r", priority: int = 0
) -> Sequence:
    """Make a sequence whose prompt is computed and that has sampled `outputs` already."""
    seq = make_sequence(prompt, max_tokens=max_tokens, request_id=request_id, priority=priority)
    for token_id in outputs:
        seq.append(token_id, NO_EOS)
    seq.num_computed_tokens = len(seq.token_ids) - 1
    return seq


def hold(pool: BlockPool, seq: Sequence, num_tokens: int | None = None) -> Sequence:
    """Give the sequence blocks for `num_tokens` positions, or for all that it has."""
    wanted = len(seq.token_ids) if num_tokens is None else num_tokens
    seq.block_table = pool.allocate(pool.num_blocks_for(wanted))
    return seq
