"""Predictions of how long a request waits. Reads the queue and the placement, changes neither."""

from collections.abc import Sequence

from common.profile import WorkerProfile, count_pairs
from router.admission.prompt_queue import PromptQueue
from router.admission.wait_limit import Forecast
from router.intake.job import Job
from router.journey.placement import Placement
from router.routing.policy import Decision


class Forecaster:
    """Predicts waiting times for the limits of router/admission/wait_limit.py."""

    def __init__(self, placement: Placement, queue: PromptQueue) -> None:
        self._placement = placement
        self._queue = queue

    def on_arrival(self, job: Job, decision: Decision) -> Forecast:
        """Return what a request meets that arrives now.

        A short prompt overtakes longer ones at a prefill worker, but is counted here as if it did
        not. Otherwise short prompts would be admitted without end, and the longer ones, admitted
        earlier, would wait too long.
        """
        workers = [*self._placement.prompt_workers().values()]
        here_s = seconds_for(self._queue.tokens_before(job.tenant.name), workers)
        there = self._placement.sent_prompts(decision.prompt_worker)
        there_s = max(decision.chosen.queue_s, seconds_for(there.num_tokens, workers[:1]))
        return Forecast(
            wait_s=here_s + there_s,
            prefill_s=decision.chosen.prefill_s,
            answer_s=self._placement.answer_s(job, decision),
            num_ahead=self._queue.num_waiting + there.num_prompts,
        )

    def at_turn(self, job: Job, decision: Decision) -> Forecast:
        """Return what a request meets that has waited for its turn and is sent now."""
        chosen = decision.chosen
        answer_s = self._placement.answer_s(job, decision)
        return Forecast(chosen.queue_s, chosen.prefill_s, answer_s, num_ahead=1)


def seconds_for(num_tokens: int, workers: Sequence[WorkerProfile]) -> float:
    """Return the seconds that workers need for so many prompt tokens, in prompts of a step."""
    if not workers or not num_tokens:
        return 0.0
    profile, share = workers[0], -(-num_tokens // len(workers))
    num_pairs = share / profile.max_batch_tokens * count_pairs(profile.max_batch_tokens)
    return profile.prompt_s(share, num_pairs)
