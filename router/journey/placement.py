"""Placement of jobs: the pool offers workers that are ready, and the policy chooses among them."""

import time
from collections.abc import Callable, Mapping, Sequence

from common.messages import Role
from common.profile import WorkerProfile
from pdserve.errors import UnavailableError
from router.access.tenant import RequestKey
from router.admission.arrival_rate import ArrivalRate
from router.intake.job import Job
from router.journey.answer_lengths import AnswerLengths
from router.journey.decisions import DecisionLog
from router.journey.probation import Allows, anywhere
from router.journey.progress import Summary
from router.routing.policy import Decision, RoutingPolicy
from router.routing.prediction import Ask
from router.routing.prefix_index import PromptKeys
from router.routing.prompt_order import Entrant
from router.workers.pool import WorkerPool

# steps of prompt tokens sent to each worker: enough to keep it busy and to choose among
WINDOW_STEPS = 4


class Placement:
    """Chooses workers for jobs, and keeps its decisions for `Explain`.

    Learns the lengths of answers and the rate of arrivals. `choose` alone changes nothing: a
    request may still be refused, or be placed anew after it has waited.
    """

    def __init__(self, pool: WorkerPool, policy: RoutingPolicy, decisions: DecisionLog) -> None:
        self._pool = pool
        self._policy = policy
        self._decisions = decisions
        self._lengths = AnswerLengths()
        self._arrivals = ArrivalRate()
        self._num_committed = 0

    def choose(
        self,
        job: Job,
        arrival_s: float,
        prior_token_ids: Sequence[int] = (),
        allows: Allows = anywhere,
    ) -> Decision:
        """Return the workers for a job, as of now, behind an output that it may have already.

        Raises UnavailableError when no decode worker is ready where the job is allowed.
        """
        # a request for every prompt token's logits shares none of the prompt
        token_ids = job.prompt_token_ids
        if prior_token_ids:
            token_ids = (*token_ids, *prior_token_ids)
        is_shareable = prior_token_ids or not job.sampling.needs_all_prompt_logits
        keys = PromptKeys(self._pool.fingerprint, job.salt, token_ids if is_shareable else ())
        expected = self._lengths.expected(job.sampling.max_tokens - len(prior_token_ids))
        rate, turn = self._arrivals.per_s(arrival_s), self._num_committed
        ask = Ask(len(token_ids), expected, rate, job.worker_priority, turn)
        prefill, decode = (
            [one for one in self._pool.candidates(role, keys, ask) if allows(one.name)]
            for role in (Role.PREFILL, Role.DECODE)
        )
        decision = self._policy.choose(ask, prefill, decode)
        if decision is None:
            raise UnavailableError("no decode worker is ready")
        return decision

    def note_arrival(self, arrival_s: float) -> None:
        """Count an admitted request in the rate of arrivals."""
        self._arrivals.arrive(arrival_s)

    def propose(self, job: Job, decision: Decision, arrival_s: float) -> None:
        """Show in `Explain` where a job that waits would go now."""
        self._decisions.record(job.key, decision, arrival_s)

    def commit(self, job: Job, decision: Decision, arrival_s: float) -> None:
        """Take the decision under which a job is sent."""
        self._num_committed += 1
        self._decisions.record(job.key, decision, arrival_s)

    def note_finished(self, key: RequestKey, choice: int, summary: Summary) -> None:
        """Learn the length of a finished choice, and show its summary in `Explain`."""
        self.note_output_length(summary.num_output_tokens)
        self._decisions.note_finished(key, choice, summary)

    def note_output_length(self, num_tokens: int) -> None:
        """Learn the length of a finished choice."""
        self._lengths.note(num_tokens)

    def prompt_workers(self) -> dict[str, WorkerProfile]:
        """Return the profiles, by name, of the workers that run prompts, or else of decode workers."""
        roles = self._policy.prompt_roles
        found = {name: p for role in roles for name, p in self._pool.profiles(role).items()}
        return found or self._pool.profiles(Role.DECODE)

    def room_tokens(self, entrant: Entrant) -> int:
        """Return the tokens in prompts like `entrant` that workers want besides those sent to them.

        A prompt that it would overtake counts one step at most: the next step may be another's.
        """
        workers, sent = self.prompt_workers(), self._pool.sent_prompts
        rank = entrant.rank(time.monotonic())

        def num_counted(name: str) -> int:
            step = workers[name].max_batch_tokens
            overtaken = sent.tokens_overtaken(name, rank)
            return sent.ahead(name, rank).num_tokens + sum(min(n, step) for n in overtaken)

        return room_tokens(workers, num_counted)

    def answer_s(self, job: Job, decision: Decision) -> float:
        """Return the least number of seconds from the next token to the last one."""
        num_tokens = self._lengths.least(job) - 1 - job.received.num_common
        return max(num_tokens, 0) * decision.chosen.step_s


def room_tokens(workers: Mapping[str, WorkerProfile], num_sent: Callable[[str], int]) -> int:
    """Return the number of prompt tokens that these workers want besides those sent to them.

    A worker with more than its window, or one that does nothing, takes no room from another.
    """
    windows = {name: WINDOW_STEPS * profile.max_batch_tokens for name, profile in workers.items()}
    return sum(max(window - num_sent(name), 0) for name, window in windows.items())
