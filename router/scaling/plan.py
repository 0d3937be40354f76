"""Plans for a change of the workers. Plain data in and out.

A role that has too many workers gives to one that has too few. A flip keeps engine, weights and
prefixes; a start loads them anew. So a plan starts or stops workers, never both. A worker that
drains already goes first, so that the others remain. Then comes the least loaded one, which is
drained soonest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config import MAX_DECODE_WORKERS, MAX_PREFILL_WORKERS
from common.messages import Role
from pdserve.errors import InvalidRequestError

_LIMITS = {Role.PREFILL: (0, MAX_PREFILL_WORKERS), Role.DECODE: (1, MAX_DECODE_WORKERS)}


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as a plan sees it. A worker whose process is gone does not count, and is removed.

    It counts while its deployment starts it again. A worker that drains for another router may leave soon.
    """

    name: str
    role: Role
    num_sequences: int = 0
    is_gone: bool = False
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """Steps of a change, by worker: `flips` take the role `flip_to`, `gone` have died."""

    starts: tuple[Role, ...] = ()
    flips: tuple[str, ...] = ()
    flip_to: Role = Role.DECODE
    stops: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def make_plan(members: Sequence[Member], prefill: int | None, decode: int | None) -> ScalePlan:
    """Return the plan for so many workers (None: as many as now). Raises InvalidRequestError."""
    by_role = {role: _idlest_first(members, role) for role in Role}
    wanted = {Role.PREFILL: prefill, Role.DECODE: decode}
    surplus: dict[Role, int] = {}
    for role, count in wanted.items():
        there = len(by_role[role])
        num_wanted = there if count is None else count
        least, most = _LIMITS[role]
        if not least <= num_wanted <= most:
            raise InvalidRequestError(f"{num_wanted} is not {least} to {most}", field=str(role))
        surplus[role] = there - num_wanted
    giver = max(Role, key=lambda role: surplus[role])
    taker = next(role for role in Role if role is not giver)
    num_flips = max(min(surplus[giver], -surplus[taker]), 0)
    starts = {role: -surplus[role] - (num_flips if role is taker else 0) for role in Role}
    stops = {role: surplus[role] - (num_flips if role is giver else 0) for role in Role}
    skipped = {giver: num_flips, taker: 0}
    return ScalePlan(
        starts=tuple(role for role in Role for _ in range(starts[role])),
        flips=tuple(by_role[giver][:num_flips]),
        flip_to=taker,
        stops=tuple(
            name for role in Role for name in by_role[role][skipped[role] :][: max(stops[role], 0)]
        ),
        gone=tuple(member.name for member in members if member.is_gone),
    )


def _idlest_first(members: Sequence[Member], role: Role) -> list[str]:
    there = [m for m in members if m.role is role and not m.is_gone]
    # of equal ones first those started for the other role, whose name they have
    there.sort(key=lambda m: (not m.is_draining, m.num_sequences, m.name.startswith(role), m.name))
    return [m.name for m in there]
