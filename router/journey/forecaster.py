"""Predictions of how long a request waits. Reads the queue and the placement, changes neither."""

from collections.abc import Sequence

from common.profile import WorkerProfile, count_pairs
from router.admission.prompt_queue import PromptQueue
from router.admission.wait_limit import Forecast, Kind
from router.intake.job import Job
from router.journey.placement import Placement
from router.routing.policy import Decision
from router.routing.prompt_order import Rank


class Forecaster:
    """Predicts waiting times for the limits of router/admission/wait_limit.py."""

    def __init__(self, placement: Placement, queue: PromptQueue) -> None:
        self._placement = placement
        self._queue = queue

    def on_arrival(self, job: Job, decision: Decision, arrival_s: float) -> Forecast:
        """Return what a request meets that arrives now: the prompts that run before it, and its own.

        Prompts that come later and overtake it are not counted. Ageing bounds them.
        """
        here = self._queue.ahead(job.tenant.name, queue_rank(job, decision, arrival_s))
        here_s = seconds_for(here.num_tokens, [*self._placement.prompt_workers().values()])
        chosen = decision.chosen
        return Forecast(
            wait_s=here_s + chosen.queue_s,
            prefill_s=chosen.prefill_s,
            answer_s=self._placement.answer_s(job, decision),
            num_ahead=here.num_prompts + chosen.num_ahead,
            kind=Kind.of(job.priority, decision.num_new_tokens),
        )

    def at_turn(self, job: Job, decision: Decision) -> Forecast:
        """Return what a request meets that has waited for its turn and is sent now."""
        chosen = decision.chosen
        answer_s = self._placement.answer_s(job, decision)
        return Forecast(chosen.queue_s, chosen.prefill_s, answer_s, num_ahead=1)


def queue_rank(job: Job, decision: Decision, arrival_s: float) -> Rank:
    """Return a job's rank among its tenant's in the queue, where it ages from its arrival on."""
    return Rank(job.priority, arrival_s + decision.chosen.run_s)


def seconds_for(num_tokens: int, workers: Sequence[WorkerProfile]) -> float:
    """Return the seconds that workers need for so many prompt tokens, in prompts of a step."""
    if not workers or not num_tokens:
        return 0.0
    profile, share = workers[0], -(-num_tokens // len(workers))
    num_pairs = share / profile.max_batch_tokens * count_pairs(profile.max_batch_tokens)
    return profile.prompt_s(share, num_pairs)
