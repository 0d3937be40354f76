"""Plan of which node of a cluster gets which worker. Plain arithmetic, without Ray.

1. Decode workers are spread: each goes to the node with the fewest of them.
2. So are prefill workers. With `pair` they go where most decode workers have none beside them.
3. A node that other roles could use too is taken last.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.messages import Role
from deploy.worker_needs import Amounts

Placement = Literal["spread", "pair"]
_TINY = 1e-6  # amounts are multiples of 0.0001


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worker that needs a place."""

    role: Role
    needs: Amounts


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node: what it has in all, what is free of it, and how many workers of each role it has."""

    node_id: str
    total: Amounts
    free: Amounts
    num_workers: Mapping[Role, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lack:
    """Missing resource, or "" where no single one is missing; and the words for it."""

    resource: str
    text: str


class _Filling:
    """A node while the plan fills it."""

    def __init__(self, node: NodeRoom) -> None:
        self.node = node
        self.free = dict(node.free)
        self.num_workers = Counter(node.num_workers)

    def take(self, worker: Wanted) -> None:
        for name, amount in worker.needs.items():
            self.free[name] -= amount
        self.num_workers[worker.role] += 1

    def rank(self, role: Role, placement: Placement) -> tuple[float, ...]:
        """Return what makes a node a worse place for a role; the least is best."""
        of_others = sum(other in self.node.total for other in Role if other is not role)
        own, all_workers = self.num_workers[role], self.num_workers.total()
        if placement == "pair" and role is Role.PREFILL:
            unpaired = self.num_workers[Role.DECODE] - own
            return (of_others, -max(unpaired, 0), own, all_workers)
        return (of_others, own, all_workers)


def plan_places(
    wanted: Sequence[Wanted], nodes: Sequence[NodeRoom], placement: Placement
) -> list[str]:
    """Return the node of each worker, in the given order; "" for one that has room nowhere."""
    filling = [_Filling(node) for node in nodes]
    places = [""] * len(wanted)
    # decode first: prefill workers may follow them
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i].role is not Role.DECODE):
        worker = wanted[index]
        fitting = [one for one in filling if fits(worker.needs, one.free)]
        if fitting:
            best = min(fitting, key=lambda one: one.rank(worker.role, placement))
            best.take(worker)
            places[index] = best.node.node_id
    return places


def fits(needs: Amounts, there: Amounts) -> bool:
    """Return True if these amounts are there."""
    return all(there.get(name, 0.0) >= amount - _TINY for name, amount in needs.items())


def find_lack(wanted: Sequence[Wanted], nodes: Sequence[NodeRoom]) -> Lack | None:
    """Return what the nodes lack, free or not, for these workers; None if they could hold them all."""
    asked: dict[str, float] = {}
    for worker in wanted:
        for name, amount in worker.needs.items():
            asked[name] = asked.get(name, 0.0) + amount
    for name, amount in asked.items():
        there = sum(node.total.get(name, 0.0) for node in nodes)
        if there < amount - _TINY:
            need = "1 worker needs" if len(wanted) == 1 else f"{len(wanted)} workers need"
            has = "the node has" if len(nodes) == 1 else f"the {len(nodes)} nodes have"
            return Lack(name, f"{need} {amount:g} {name}, {has} {there:g}")
    for worker in wanted:
        if not any(fits(worker.needs, node.total) for node in nodes):
            return Lack("", f"no node has {_listed(worker.needs)} for a {worker.role} worker")
    return None


def describe_busy(wanted: Sequence[Wanted], places: Sequence[str]) -> Lack:
    """Return for which workers there is no room now, though the nodes are large enough."""
    worker = next(w for w, place in zip(wanted, places, strict=True) if not place)
    amounts = f"{_listed(worker.needs)} free for a {worker.role} worker"
    num_left = sum(not place for place in places)
    return Lack("", f"no room for {num_left} of {len(wanted)} workers: no node has {amounts}")


def _listed(needs: Amounts) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in needs.items())
