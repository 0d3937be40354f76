"""Invariants that `pdserve status` tells: what each worker's memory holds, and what does not add up."""

from collections.abc import Sequence

from pdserve.v1 import admin_pb2, ledger_pb2

_STATES = {
    number: name.removeprefix("HOLDER_STATE_").lower()
    for name, number in ledger_pb2.HolderState.items()
    if number
}


def memory_dict(
    blocks: ledger_pb2.WorkerBlocks | None, load: admin_pb2.WorkerLoad | None
) -> dict[str, object]:
    """Return the stable JSON form of what a worker holds; nulls where it did not answer."""
    has_answered = blocks is not None and not blocks.problem
    ledger = blocks.ledger if blocks is not None and has_answered else None
    return {
        "held": None if ledger is None else _held(ledger),
        "blocks_unaccounted": None if ledger is None else ledger.blocks_unaccounted,
        "kv_streams": None if ledger is None else ledger.num_streams,
        "object_store": {
            "stream_bytes": None if ledger is None else ledger.stream_bytes,
            "spilled_bytes": None if load is None else load.spilled_bytes,
        },
        "integrity": None if ledger is None or not ledger.is_checked else _integrity(ledger),
    }


def problems(
    status: admin_pb2.StatusResponse, blocks: Sequence[ledger_pb2.WorkerBlocks]
) -> list[str]:
    """Return what is wrong, one line each: the account, a leak, an invariant, a worker's silence."""
    totals = status.router.totals
    found = []
    if not status.router.adds_up:
        found.append(
            f"router: {totals.accepted} accepted are not {totals.completed} completed + "
            f"{totals.cancelled} cancelled + {totals.failed} failed + "
            f"{status.router.requests_in_flight} in flight"
        )
    for each in blocks:
        ledger = each.ledger
        if each.problem:
            found.append(f"{each.worker}: not checked: {each.problem}")
        if ledger.integrity_problem:
            found.append(f"{each.worker}: {ledger.integrity_problem}")
        if ledger.blocks_unaccounted:
            found.append(f"{each.worker}: {ledger.blocks_unaccounted} blocks are nobody's")
    return found


def _held(ledger: ledger_pb2.BlockLedger) -> dict[str, dict[str, int]]:
    """Return all states, also those of no request, so that readers need no default."""
    by_state = {held.state: held for held in ledger.held}
    nothing = ledger_pb2.HeldBlocks()
    return {
        name: {
            "requests": by_state.get(number, nothing).num_requests,
            "blocks": by_state.get(number, nothing).num_blocks,
        }
        for number, name in _STATES.items()
    }


def _integrity(ledger: ledger_pb2.BlockLedger) -> str:
    return ledger.integrity_problem or "ok"
