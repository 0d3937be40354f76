"""Why sequences hold blocks of a decode worker, or hold none."""

from common.engine.sequence import Sequence
from common.ledger import HolderState
from decode_worker.inbox import Inbox
from decode_worker.scheduler import DecodeScheduler


def state_of(seq: Sequence, scheduler: DecodeScheduler, inbox: Inbox) -> HolderState:
    """Of a live sequence. One whose grammar is being compiled is in no queue yet and holds nothing."""
    if seq in inbox.pulls:
        return HolderState.PULLING
    if seq in scheduler.running:
        decodes = seq.num_uncomputed_tokens <= 1 and seq.num_output_tokens
        return HolderState.DECODING if decodes else HolderState.PREFILLING
    if scheduler.preemption.num_host_bytes(seq):
        return HolderState.SWAPPED
    return HolderState.PREEMPTED if seq.timeline.num_preemptions else HolderState.QUEUED
