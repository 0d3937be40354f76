"""Why prompts hold blocks of a prefill worker."""

from common.engine.sequence import Sequence
from common.ledger import HolderState
from prefill_worker.scheduler import PrefillScheduler


def state_of(seq: Sequence, scheduler: PrefillScheduler) -> HolderState:
    """Of a live prompt. One whose grammar is being compiled is in no queue yet and holds nothing."""
    if not seq.block_table:
        return HolderState.QUEUED
    return HolderState.PREFILLING if seq in scheduler.running else HolderState.SENDING
