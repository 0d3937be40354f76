"""Tests of what `pdserve status` says of the workers' memory, and of what does not add up."""

from cli.invariants import memory_dict, problems
from cli.status import to_dict
from pdserve.v1 import admin_pb2, ledger_pb2

LEDGER = ledger_pb2.BlockLedger(
    blocks_total=16,
    blocks_free=9,
    held=[
        ledger_pb2.HeldBlocks(state=ledger_pb2.HOLDER_STATE_DECODING, num_requests=2, num_blocks=5),
        ledger_pb2.HeldBlocks(state=ledger_pb2.HOLDER_STATE_PULLING, num_requests=1, num_blocks=2),
    ],
    num_streams=1,
    stream_bytes=4096,
)
ANSWERED = ledger_pb2.WorkerBlocks(worker="decode-0", ledger=LEDGER)
SILENT = ledger_pb2.WorkerBlocks(worker="decode-1", problem="no answer in 2 s")


def checked(problem: str = "", unaccounted: int = 0) -> ledger_pb2.WorkerBlocks:
    ledger = ledger_pb2.BlockLedger(
        is_checked=True, integrity_problem=problem, blocks_unaccounted=unaccounted
    )
    return ledger_pb2.WorkerBlocks(worker="decode-0", ledger=ledger)


def status(in_flight: int = 1) -> admin_pb2.StatusResponse:
    totals = admin_pb2.Outcomes(accepted=6, completed=2, cancelled=2, failed=1, rejected=4)
    router = admin_pb2.RouterStatus(
        requests_in_flight=in_flight, totals=totals, adds_up=in_flight == 1
    )
    worker = admin_pb2.WorkerStatus(name="decode-0", load=admin_pb2.WorkerLoad(spilled_bytes=3))
    return admin_pb2.StatusResponse(router=router, workers=[worker])


def test_blocks_are_told_by_cause() -> None:
    found = to_dict(status(), [ANSWERED])
    assert isinstance(found["workers"], list)
    (worker,) = found["workers"]
    held = worker["held"]
    assert held["decoding"] == {"requests": 2, "blocks": 5}
    assert held["pulling"] == {"requests": 1, "blocks": 2}
    idle = {name for name, part in held.items() if part == {"requests": 0, "blocks": 0}}
    assert idle == {"queued", "prefilling", "sending", "swapped", "preempted"}
    assert (worker["kv_streams"], worker["blocks_unaccounted"]) == (1, 0)
    assert worker["object_store"] == {"stream_bytes": 4096, "spilled_bytes": 3}
    assert worker["integrity"] is None, "nobody asked for it"


def test_a_worker_that_says_nothing_has_nulls() -> None:
    for blocks in (SILENT, None):
        found = memory_dict(blocks, None)
        assert {found["held"], found["kv_streams"], found["integrity"]} == {None}
        assert found.keys() == memory_dict(ANSWERED, None).keys()


def test_a_check_that_finds_nothing_says_ok() -> None:
    assert memory_dict(checked(), None)["integrity"] == "ok"
    assert problems(status(), [checked()]) == []


def test_each_problem_is_told_with_its_place() -> None:
    broken = checked("a block is on the free list twice", unaccounted=3)
    assert problems(status(in_flight=0), [broken, SILENT]) == [
        "router: 6 accepted are not 2 completed + 2 cancelled + 1 failed + 0 in flight",
        "decode-0: a block is on the free list twice",
        "decode-0: 3 blocks are nobody's",
        "decode-1: not checked: no answer in 2 s",
    ]
    assert memory_dict(broken, None)["integrity"] == "a block is on the free list twice"
