"""What hand-offs take. Plain numbers."""

from common.engine.profiling.costs import Costs
from common.engine.sequence import Sequence
from common.profile import WorkerProfile


def note_handoff(costs: Costs, seq: Sequence, num_others: int) -> None:
    """Learn from a sequence that joins `num_others` in the batch, if it was handed off."""
    if (unforeseen_s := _unforeseen_s(seq, costs.profile, num_others)) is not None:
        costs.note_handoff(unforeseen_s)


def _unforeseen_s(seq: Sequence, profile: WorkerProfile, num_others: int) -> float | None:
    """What a hand-off took beside what the router reckons with anyway, copies and half a step of the others.

    None for a sequence that was not handed off.
    """
    handoff_s = seq.timeline.handoff_s
    if handoff_s is None:
        return None
    chunks = seq.timeline.prefill_chunks
    num_tokens = chunks[-1].num_tokens if chunks else seq.num_prompt_tokens
    copies_s = profile.copy_out_s(num_tokens) + profile.insert_s(num_tokens)
    return handoff_s - copies_s - profile.decode_step_s(num_others, 0) / 2
