"""Report of a chaos run: what each fault did to the answers, and what was left behind."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.chaos.asking import Asking, Choice
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.fleet import adds_up, held
from benchmarks.chaos.questions import Question
from benchmarks.chaos.store import StoreUse
from pdserve.v1 import admin_pb2, ledger_pb2

UNTOUCHED = "none met them"


@dataclass(frozen=True, slots=True)
class Run:
    """One fault, and the seconds until all workers served again."""

    fault: str
    recovery_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """All that one kind of fault did."""

    fault: str
    promise: str
    runs: int
    requests: int  # that it met
    identical: int  # of these
    gap_p50_s: float | None  # fault to the next message
    gap_p99_s: float | None
    recovery_p50_s: float | None
    recovery_max_s: float | None


@dataclass(frozen=True, slots=True)
class Remains:
    """Counts of what should be nothing at the end."""

    blocks: int  # held, or that nobody accounts for
    objects: int  # of Ray that are held, beyond those before the load
    requests: int  # in flight still
    spilled_bytes: int
    adds_up: bool  # accepted = completed + cancelled + failed
    evictable: int = 0  # objects of Ray that nobody holds: of a reader that died
    references: tuple[str, ...] = ()  # to objects, if any that are held are left

    @classmethod
    def of(
        cls,
        routers: Sequence[admin_pb2.StatusResponse],
        ledgers: Sequence[ledger_pb2.WorkerBlocks],
        before: StoreUse,
        after: StoreUse,
    ) -> "Remains":
        """Count them; each of the routers knows the same workers."""
        lost = sum(one.ledger.blocks_unaccounted for one in ledgers)
        objects = max(after.num_held - before.num_held, 0)
        more = after.num_objects - before.num_objects
        return cls(
            sum(held(routers[0]).values()) + lost,
            objects,
            sum(status.router.requests_in_flight for status in routers),
            after.spilled_bytes - before.spilled_bytes,
            all(adds_up(status.router.totals) for status in routers),
            max(more - objects, 0),
            after.references if objects else (),
        )

    def told(self) -> list[str]:
        """Return who holds the objects that are left, in words; nothing without any."""
        if self.objects and not self.references:
            return ["the store keeps an object to which no process has a reference"]
        return [f"an object is left: {reference}" for reference in self.references]


@dataclass(frozen=True, slots=True)
class Report:
    """Contents of the JSON file, the plan apart."""

    requests: int
    identical: int
    cancelled: int
    kinds: dict[str, int]
    errors: list[str]
    rows: list[Row]
    remains: Remains
    processes_left: int

    @property
    def is_clean(self) -> bool:
        """True if every answer was right, and nothing is left."""
        left = self.remains
        counts = (left.blocks, left.objects, left.requests, self.processes_left)
        return self.identical == self.requests and left.adds_up and not any(counts)


def make_report(
    runs: Sequence[Run],
    askings: Sequence[Asking],
    expected: Mapping[Question, tuple[Choice, ...]],
    remains: Remains,
    processes_left: int,
) -> Report:
    """Count everything; `expected` has the undisturbed answer of each question."""
    right = {id(one) for one in askings if one.agrees_with(expected[one.question])}
    kinds: dict[str, int] = {}
    for asking in askings:
        kinds[asking.question.kind] = kinds.get(asking.question.kind, 0) + 1
    rows = [_row(fault.name, fault.promise, runs, askings, right) for fault in FAULTS]
    untouched = [asking for asking in askings if not asking.struck]
    identical = sum(id(asking) in right for asking in untouched)
    rows.append(Row(UNTOUCHED, "same text", 0, len(untouched), identical, None, None, None, None))
    return Report(
        requests=len(askings),
        identical=len(right),
        cancelled=sum(asking.is_cancelled for asking in askings),
        kinds=kinds,
        errors=[_problem(one, expected[one.question]) for one in askings if id(one) not in right],
        rows=[row for row in rows if row.runs or row.requests],
        remains=remains,
        processes_left=processes_left,
    )


def _row(
    name: str, promise: str, runs: Sequence[Run], askings: Sequence[Asking], right: set[int]
) -> Row:
    met = [asking for asking in askings if name in asking.struck]
    gaps = [gap for asking in met if (gap := asking.gap_s(name)) is not None]
    recoveries = [run.recovery_s for run in runs if run.fault == name]
    return Row(
        fault=name,
        promise=promise,
        runs=len(recoveries),
        requests=len(met),
        identical=sum(id(asking) in right for asking in met),
        gap_p50_s=_rounded(statistics.median(gaps)) if gaps else None,
        gap_p99_s=_rounded(percentile(gaps, 0.99)) if gaps else None,
        recovery_p50_s=_rounded(statistics.median(recoveries)) if recoveries else None,
        recovery_max_s=_rounded(max(recoveries)) if recoveries else None,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _rounded(seconds: float) -> float:
    return round(seconds, 2)


def _problem(asking: Asking, expected: tuple[Choice, ...]) -> str:
    met = ", ".join(asking.struck) or "no fault"
    return (
        f"{asking.request_id} ({asking.question.kind}; met {met}): "
        f"{asking.error or first_difference(asking.answer(), expected)}"
    )


def first_difference(answer: tuple[Choice, ...], expected: tuple[Choice, ...]) -> str:
    """Return where an answer first differs, in words."""
    for number, (ours, theirs) in enumerate(zip(answer, expected, strict=False)):
        pairs = zip(ours.token_ids, theirs.token_ids, strict=False)
        places = [place for place, (one, other) in enumerate(pairs) if one != other]
        if places:
            return f"choice {number} differs from token {places[0]} of {len(theirs.token_ids)} on"
        if not ours.agrees_with(theirs, is_cut=False):
            delta = ours.delta_to(theirs)
            return f"choice {number} has the same tokens, but another end, text or logprob ({delta:.2g})"
    return "choices are missing"
