"""Prompts that a prefill worker runs, and their credit, for schedulers driven by tests."""

from dataclasses import replace

from common.config import TransferConfig
from common.engine.sequence import Sequence
from common.kv_transfer.layout import KVLayout, KVShape
from common.kv_transfer.node_store import UNLIMITED, NodeStore
from decode_worker.pull_credit import PullCredit

LAYOUT = KVLayout("m", (KVShape(1, 1, 1),), "float32", 4, 100)  # 8 bytes a token


def make_credit(max_pulls: int = 16, store: NodeStore = UNLIMITED) -> PullCredit:
    """Make credit for `max_pulls` pulls at once, of any length unless the store is small."""
    return PullCredit(TransferConfig(max_concurrent_pulls=max_pulls), LAYOUT, store)


def pulled(seq: Sequence) -> Sequence:
    """Return the sequence, marked to be pulled."""
    seq.request = replace(seq.request, prefill_worker="prefill-0")
    return seq
