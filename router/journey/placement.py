"""From a job to a decision: asks the pool who is there and the policy whom to take."""

from common.messages import Role
from common.profile import WorkerProfile
from pdserve.errors import UnavailableError
from router.admission.arrival_rate import ArrivalRate
from router.intake.job import Job
from router.journey.answer_lengths import AnswerLengths
from router.journey.decisions import DecisionLog
from router.routing.policy import Decision, RoutingPolicy
from router.routing.prediction import Ask
from router.routing.prefix_index import PromptKeys
from router.workers.pool import WorkerPool
from router.workers.sent_prompts import SentTotals


class Placement:
    """Chooses workers for jobs, and keeps its decisions for `Explain`.

    Learns how long answers get and how often requests come. `choose` alone changes nothing: a request may
    still be refused, or chosen for again after it has waited.
    """

    def __init__(self, pool: WorkerPool, policy: RoutingPolicy, decisions: DecisionLog) -> None:
        self._pool = pool
        self._policy = policy
        self._decisions = decisions
        self._lengths = AnswerLengths()
        self._arrivals = ArrivalRate()
        self._num_committed = 0

    def choose(self, job: Job, arrival_s: float) -> Decision:
        """The workers for a job, as of now. Raises UnavailableError when no decode worker is ready."""
        # who wants every prompt token's logits shares none of it
        shareable = () if job.sampling.needs_all_prompt_logits else job.prompt_token_ids
        keys = PromptKeys(self._pool.fingerprint, job.salt, shareable)
        expected = self._lengths.expected(job.sampling.max_tokens)
        rate, turn = self._arrivals.per_s(arrival_s), self._num_committed
        ask = Ask(len(job.prompt_token_ids), expected, rate, job.worker_priority, turn)
        prefill, decode = (
            self._pool.candidates(role, keys, ask) for role in (Role.PREFILL, Role.DECODE)
        )
        decision = self._policy.choose(ask, prefill, decode)
        if decision is None:
            raise UnavailableError("no decode worker is ready")
        return decision

    def note_arrival(self, arrival_s: float) -> None:
        """A request was let in."""
        self._arrivals.arrive(arrival_s)

    def propose(self, job: Job, decision: Decision, arrival_s: float) -> None:
        """It waits, and for now it would go there."""
        self._decisions.record(job.key, decision, arrival_s)

    def commit(self, job: Job, decision: Decision, arrival_s: float) -> None:
        """It goes there."""
        self._num_committed += 1
        self._decisions.record(job.key, decision, arrival_s)

    def prompt_workers(self) -> dict[str, WorkerProfile]:
        """What the workers that the policy gives prompts to can do; if there are none, the decode workers."""
        roles = self._policy.prompt_roles
        found = {name: p for role in roles for name, p in self._pool.profiles(role).items()}
        return found or self._pool.profiles(Role.DECODE)

    def answer_s(self, job: Job, decision: Decision) -> float:
        """From token 1 to its last one, at the least."""
        return (self._lengths.least(job) - 1) * decision.chosen.step_s

    def sent_prompts(self, worker: str) -> SentTotals:
        """What this router has sent there and has not run."""
        return self._pool.sent_prompts.totals(worker)

    def note_output_length(self, num_tokens: int) -> None:
        """An answer ended with so many tokens."""
        self._lengths.note(num_tokens)
