"""Reports of a decode worker: load, tokens, reasons why blocks are held, time of hand-offs."""

from dataclasses import replace

from common.engine.build import Engine
from common.engine.profiling.costs import Costs
from common.engine.sampling.sampler import Sample
from common.engine.sequence import Sequence
from common.ledger import HolderState
from common.messages import SequenceOutput, WorkerLoad
from common.profile import WorkerProfile
from common.worker.counters import Counters, Holders
from decode_worker.inbox import Inbox
from decode_worker.scheduler import DecodeScheduler


def load_report(
    engine: Engine, counters: Counters, scheduler: DecodeScheduler, inbox: Inbox
) -> WorkerLoad:
    """Return the load now. Brings the counters of preemptions up to date, which the scheduler owns."""
    admission, preemption = scheduler.admission, scheduler.preemption
    counters.preemptions = preemption.num_swapped + preemption.num_recomputed
    counters.swaps = preemption.num_swapped
    counters.causes.look(lambda: _holders(scheduler, inbox))
    backlog_tokens = scheduler.num_waiting_tokens
    num_pulled_tokens = admission.num_pulled_tokens + inbox.num_missing_tokens
    return counters.to_load(
        engine,
        len(scheduler.running),
        len(admission.waiting) + len(inbox.pulls),
        backlog_tokens + num_pulled_tokens,
        backlog_tokens,
        inbox.credit.total_bytes,
        inbox.credit.demand_bytes,
    )


def _holders(scheduler: DecodeScheduler, inbox: Inbox) -> Holders:
    """Yield the sequences that hold blocks, each with the cause."""
    yield from ((HolderState.PULLING, seq) for seq in inbox.pulls)
    yield from ((_state_of_running(seq), seq) for seq in scheduler.running)


def token_output(seq: Sequence, sample: Sample) -> SequenceOutput:
    """Return the message about the token that was just appended to `seq`."""
    index = seq.num_output_tokens - 1
    # A stop text that the router finds ends a request without a word from here: so this worker's token 2
    # carries the timings of the hand-off, and the last token all of them.
    num_prior = seq.num_given_tokens - seq.num_prompt_tokens
    is_timed = seq.finish_reason is not None or index == num_prior + 1
    timings = seq.timeline.summary() if is_timed else None
    token_ids = (sample.token_id,)
    output = SequenceOutput(seq.request_id, index, token_ids, seq.finish_reason, None, timings)
    if sample.logprobs or (seq.prompt_logprobs and index == 0):
        scored = (sample.logprobs,) if sample.logprobs else ()
        prompt = tuple(seq.prompt_logprobs or ()) if index == 0 else ()
        output = replace(output, logprobs=scored, prompt_logprobs=prompt)
    return output


def holder_state(seq: Sequence, scheduler: DecodeScheduler, inbox: Inbox) -> HolderState:
    """Return why a live sequence holds blocks, or holds none.

    A sequence whose grammar is being compiled is in no queue yet and holds nothing.
    """
    if seq in inbox.pulls:
        return HolderState.PULLING
    if seq in scheduler.running:
        return _state_of_running(seq)
    if scheduler.preemption.num_host_bytes(seq):
        return HolderState.SWAPPED
    return HolderState.PREEMPTED if seq.timeline.num_preemptions else HolderState.QUEUED


def _state_of_running(seq: Sequence) -> HolderState:
    decodes = seq.num_uncomputed_tokens <= 1 and seq.num_output_tokens
    return HolderState.DECODING if decodes else HolderState.PREFILLING


def note_handoff(costs: Costs, seq: Sequence, num_others: int) -> None:
    """Let `costs` learn from a sequence that joins `num_others` in the batch, if it was handed off."""
    if (unforeseen_s := _unforeseen_s(seq, costs.profile, num_others)) is not None:
        costs.note_handoff(unforeseen_s)


def _unforeseen_s(seq: Sequence, profile: WorkerProfile, num_others: int) -> float | None:
    """Return a hand-off's time less what the router reckons with: the copies, half a step of the others.

    None for a sequence that was not handed off.
    """
    handoff_s = seq.timeline.handoff_s
    if handoff_s is None:
        return None
    chunks = seq.timeline.prefill_chunks
    num_tokens = chunks[-1].num_tokens if chunks else seq.num_given_tokens
    copies_s = profile.copy_out_s(num_tokens) + profile.insert_s(num_tokens)
    copies_s += profile.copy_state_out_s() + profile.insert_state_s()
    return handoff_s - copies_s - profile.decode_step_s(num_others, 0) / 2
