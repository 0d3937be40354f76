"""A decode worker: its engine, its intake and its inbox in the shell that both roles share."""

from common.config import WorkerSpec
from common.engine.build import Engine
from common.engine.memory.host_swap import HostSwap
from common.engine.memory.kv_cache import kv_layout
from common.engine.sampling.grammars import Grammars
from common.kv_transfer.transport import KVTransport
from common.worker.counters import Counters
from common.worker.host import EngineHost
from common.worker.shell import WorkerShell
from common.worker.step_feed import StepFeed
from decode_worker.admission import DecodeAdmission
from decode_worker.engine import DecodeEngine
from decode_worker.inbox import Inbox
from decode_worker.intake import DecodeIntake
from decode_worker.output_length import OutputLengths
from decode_worker.preemption import Preemption
from decode_worker.pull_credit import PullCredit
from decode_worker.scheduler import DecodeScheduler


def make_scheduler(engine: Engine, credit: PullCredit) -> DecodeScheduler:
    """Return the scheduler that an engine's configuration describes."""
    config, prefix, costs = engine.config, engine.prefix, engine.costs
    memory = HostSwap(engine.cache, prefix, int(config.swap_gib * 2**30), costs)
    # a state is not swapped, so neither is the KV that belongs to it
    mode = config.preemption if engine.states is None else "recompute"
    preemption = Preemption(mode, costs, memory)
    admission = DecodeAdmission(prefix, OutputLengths(), costs, credit, config.watermark)
    return DecodeScheduler(prefix, admission, preemption, costs)


def make_decode_worker(
    spec: WorkerSpec, host: EngineHost, transport: KVTransport
) -> WorkerShell[DecodeEngine]:
    """Build a decode worker upon `host`; it pulls KV through `transport`."""
    engine, wake, feed = host.engine, host.loop.wake, StepFeed()
    layout = kv_layout(engine.spec)
    credit = PullCredit(spec.transfer, layout, host.store)
    inbox = Inbox(
        engine.prefix,
        engine.cache,
        engine.costs,
        layout,
        transport,
        spec.transfer,
        wake,
        credit,
        engine.states,
    )
    grammars = Grammars(spec.model_dir, engine.spec, wake, host.compiler)
    decode = DecodeEngine(
        engine, make_scheduler(engine, credit), inbox, grammars, Counters(), feed.publish
    )
    intake = DecodeIntake(engine.spec, engine.prefix, host.loop, decode, feed)
    return WorkerShell(spec, host, decode, intake, feed, inbox.stream_use)
