"""From the workers there are to those wanted. Plain data in and out; touches nobody.

A role that has too many gives to one that has too few: a flip keeps engine, weights and known prefixes,
where a start loads them anew. So a plan starts or stops workers, never both. Who has least to do goes
first, since it is drained soonest; before it whoever drains already, so that others remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config import MAX_DECODE_WORKERS, MAX_PREFILL_WORKERS
from common.messages import Role
from pdserve.errors import InvalidRequestError

_LIMITS = {Role.PREFILL: (0, MAX_PREFILL_WORKERS), Role.DECODE: (1, MAX_DECODE_WORKERS)}


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as a plan sees it; one whose process is gone does not count, and is swept out.

    One that drains, for another router, may be about to leave.
    """

    name: str
    role: Role
    num_sequences: int = 0
    is_gone: bool = False
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What is to be done: `flips` take the role `flip_to`, `gone` have died."""

    starts: tuple[Role, ...] = ()
    flips: tuple[str, ...] = ()
    flip_to: Role = Role.DECODE
    stops: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


def make_plan(members: Sequence[Member], prefill: int | None, decode: int | None) -> ScalePlan:
    """How to get so many workers (None: as many as there are). Raises InvalidRequestError."""
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
    # of equal ones first those that were started for the other role and are named after it
    there.sort(key=lambda m: (not m.is_draining, m.num_sequences, m.name.startswith(role), m.name))
    return [m.name for m in there]
