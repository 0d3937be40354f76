"""What a decode worker tells routers of its load."""

from common.engine.build import Engine
from common.messages import WorkerLoad
from common.worker.counters import Counters
from decode_worker.inbox import Inbox
from decode_worker.scheduler import DecodeScheduler


def report(
    engine: Engine, counters: Counters, scheduler: DecodeScheduler, inbox: Inbox
) -> WorkerLoad:
    """Of this moment. Brings the counters of preemptions up to date, whose owner is the scheduler."""
    preemption = scheduler.preemption
    counters.preemptions = preemption.num_swapped + preemption.num_recomputed
    counters.swaps = preemption.num_swapped
    backlog_tokens = scheduler.num_waiting_tokens
    return counters.to_load(
        engine,
        len(scheduler.running),
        len(scheduler.waiting) + len(inbox.waiting) + len(inbox.pulls),
        backlog_tokens + inbox.num_waiting_tokens,
        backlog_tokens,
        inbox.credit_bytes,
        inbox.credit_wanted_bytes,
    )
