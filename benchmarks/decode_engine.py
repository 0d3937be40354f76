"""A decode worker's engine without its thread and RPC server: the caller submits and steps."""

from collections.abc import Callable
from pathlib import Path

from common.config import TransferConfig
from common.engine.build import Engine
from common.engine.memory.kv_cache import kv_layout
from common.engine.sampling.grammars import Grammars
from common.kv_transfer.in_process import InProcessTransport
from common.kv_transfer.node_store import UNLIMITED
from common.messages import StepOutput
from common.worker.counters import Counters
from decode_worker.engine import DecodeEngine
from decode_worker.inbox import Inbox
from decode_worker.pull_credit import PullCredit
from decode_worker.scheduler import DecodeScheduler


def decode_engine(
    engine: Engine,
    scheduler: DecodeScheduler,
    model_dir: Path,
    publish: Callable[[StepOutput], None],
) -> DecodeEngine:
    """Return an engine that prefills its prompts itself; only grammars read `model_dir`."""
    layout, transport = kv_layout(engine.spec), InProcessTransport({})
    inbox = Inbox(
        engine.prefix,
        engine.cache,
        engine.costs,
        layout,
        transport,
        TransferConfig(),
        _no_wake,
        idle_credit(engine),
    )
    grammars = Grammars(model_dir, engine.spec, _no_wake)
    return DecodeEngine(engine, scheduler, inbox, grammars, Counters(), publish)


def idle_credit(engine: Engine) -> PullCredit:
    """Return the credit of a worker that pulls nothing."""
    return PullCredit(TransferConfig(), kv_layout(engine.spec), UNLIMITED)


def _no_wake() -> None:
    pass
