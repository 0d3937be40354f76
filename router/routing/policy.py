"""Routing policies. Plain numbers in, names out; no sockets, no clocks.

A policy chooses among the routes whose cost `predict` returns: every (prefill, decode) pair and
every decode worker alone. The routes not chosen stay in the decision, so that it can be explained.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.messages import Role
from common.router_config import PolicyName
from router.routing.prediction import Ask, Candidate, Route, RouteCost, predict
from router.routing.prompt_order import FIRST_COME, Entrant, Rank

_NUM_KEPT = 32


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen route, and the cheapest of the others by prediction."""

    policy: PolicyName
    ask: Ask
    chosen: RouteCost
    others: tuple[RouteCost, ...]
    num_routes: int

    @property
    def route(self) -> Route:
        """The chosen route."""
        return self.chosen.route

    @property
    def prompt_worker(self) -> str:
        """Name of the worker that runs the prompt."""
        return self.route.prefill or self.route.decode

    @property
    def num_new_tokens(self) -> int:
        """Number of prompt tokens that the prompt worker will run."""
        return self.ask.num_prompt_tokens - self.chosen.num_cached_tokens

    @property
    def entrant(self) -> Entrant:
        """The prompt as it enters its worker's order."""
        return Entrant(self.ask.priority, self.chosen.run_s)

    def worker_rank(self, sent_s: float) -> Rank:
        """Return the prompt's rank at its worker if it is sent at `sent_s`."""
        if self.route.prefill is None:
            return Rank(self.ask.priority, FIRST_COME)
        return self.entrant.rank(sent_s)


class RoutingPolicy(Protocol):
    """Chooses the worker that decodes, and the one that runs the prompt. A choice changes nothing."""

    @property
    def prompt_roles(self) -> tuple[Role, ...]:
        """Roles of the workers that get prompts to run, as far as there are any."""

    def choose(
        self, ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> Decision | None:
        """Return the decision, or None without a decode worker."""


class CostBased:
    """Takes the route of least predicted cost; of equal ones that with fewer workers, then by name."""

    prompt_roles = (Role.PREFILL, Role.DECODE)

    def choose(
        self, ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> Decision | None:
        """Choose as RoutingPolicy.choose says."""
        costs = list(predict(ask, prefill, decode))
        if not costs:
            return None
        return _decision("cost", ask, min(costs, key=_order), costs)


class LeastLoaded:
    """Takes the prefill worker with the fewest tokens, the decode worker with the fewest sequences.

    Every prompt runs on a prefill worker if there is one.
    """

    prompt_roles = (Role.PREFILL,)

    def choose(
        self, ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> Decision | None:
        """Choose as RoutingPolicy.choose says."""
        if not decode:
            return None
        target = min(decode, key=_fewest_sequences)
        source = min(
            prefill, key=lambda c: (c.backlog_tokens + c.overtaken_tokens, c.name), default=None
        )
        route = Route(target.name, source.name if source else None)
        return _explained("least_loaded", ask, route, prefill, decode)


class Local:
    """Runs the prompt on the decode worker with the fewest sequences: without hand-offs.

    Comparing it with `least_loaded` shows the worth of disaggregation.
    """

    prompt_roles = (Role.DECODE,)

    def choose(
        self, ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> Decision | None:
        """Choose as RoutingPolicy.choose says."""
        if not decode:
            return None
        route = Route(min(decode, key=_fewest_sequences).name)
        return _explained("local", ask, route, prefill, decode)


class RoundRobin:
    """Takes the workers of each role in turn, by name, whatever their load."""

    prompt_roles = (Role.PREFILL,)

    def choose(
        self, ask: Ask, prefill: Sequence[Candidate], decode: Sequence[Candidate]
    ) -> Decision | None:
        """Choose as RoutingPolicy.choose says."""
        if not decode:
            return None
        targets, sources = sorted(c.name for c in decode), sorted(c.name for c in prefill)
        source = sources[ask.turn % len(sources)] if sources else None
        route = Route(targets[ask.turn % len(targets)], source)
        return _explained("round_robin", ask, route, prefill, decode)


_POLICIES: dict[PolicyName, Callable[[], RoutingPolicy]] = {
    "cost": CostBased,
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
    "local": Local,
}


def make_policy(name: PolicyName) -> RoutingPolicy:
    """Return the policy of this name."""
    return _POLICIES[name]()


def _explained(
    name: PolicyName,
    ask: Ask,
    route: Route,
    prefill: Sequence[Candidate],
    decode: Sequence[Candidate],
) -> Decision:
    costs = list(predict(ask, prefill, decode))
    chosen = next(cost for cost in costs if cost.route == route)
    return _decision(name, ask, chosen, costs)


def _decision(
    name: PolicyName, ask: Ask, chosen: RouteCost, costs: Sequence[RouteCost]
) -> Decision:
    others: Iterable[RouteCost] = (cost for cost in costs if cost is not chosen)
    kept = heapq.nsmallest(_NUM_KEPT - 1, others, key=_order)
    return Decision(name, ask, chosen, tuple(kept), len(costs))


def _fewest_sequences(worker: Candidate) -> tuple[int, int, str]:
    return worker.num_sequences, -worker.blocks_free, worker.name


def _order(cost: RouteCost) -> tuple[float, str, str]:
    return cost.total_s, cost.route.prefill or "", cost.route.decode
