"""Conversion of block ledgers to messages."""

from common.ledger import BlockHolder, BlockLedger, BlockQuestion, HeldBlocks, HolderState
from common.rpc.convert_timings import to_us
from pdserve.v1 import ledger_pb2, worker_pb2

_STATE_TO_PB = {
    state: ledger_pb2.HolderState.Value(f"HOLDER_STATE_{state.name}") for state in HolderState
}


def answer_to_pb(query_id: int, ledger: BlockLedger) -> worker_pb2.BlocksAnswer:
    """Convert a worker's answer to its message."""
    return worker_pb2.BlocksAnswer(query_id=query_id, ledger=ledger_to_pb(ledger))


def question_from_pb(query: worker_pb2.QueryBlocks) -> BlockQuestion:
    """Convert a router's question."""
    return BlockQuestion(query.request_id, query.check)


def ledger_to_pb(ledger: BlockLedger) -> ledger_pb2.BlockLedger:
    """Convert a ledger to its message."""
    return ledger_pb2.BlockLedger(
        blocks_total=ledger.blocks_total,
        blocks_free=ledger.blocks_free,
        blocks_cached=ledger.blocks_cached,
        blocks_unaccounted=ledger.blocks_unaccounted,
        block_size=ledger.block_size,
        num_holders=ledger.num_holders,
        holders=map(_holder_to_pb, ledger.holders),
        held=map(_held_to_pb, ledger.held),
        num_streams=ledger.streams.num_streams,
        stream_bytes=ledger.streams.num_bytes,
        is_checked=ledger.integrity.is_checked,
        integrity_problem=ledger.integrity.problem,
    )


def _held_to_pb(held: HeldBlocks) -> ledger_pb2.HeldBlocks:
    return ledger_pb2.HeldBlocks(
        state=_STATE_TO_PB[held.state],
        num_requests=held.num_requests,
        num_blocks=held.num_blocks,
    )


def _holder_to_pb(holder: BlockHolder) -> ledger_pb2.BlockHolder:
    return ledger_pb2.BlockHolder(
        request_id=holder.request_id,
        state=_STATE_TO_PB[holder.state],
        num_blocks=holder.num_blocks,
        num_shared_blocks=holder.num_shared_blocks,
        num_tokens=holder.num_tokens,
        num_computed_tokens=holder.num_computed_tokens,
        host_bytes=holder.host_bytes,
        age_us=to_us(holder.age_s),
    )
