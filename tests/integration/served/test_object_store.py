"""KV through a small object store of a real Ray, which never spills, whatever the load."""

import gc
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle

from common.config import ServeConfig, TransferConfig, WorkerSpec
from common.kv_transfer.ray_store import RayNodeStore
from common.kv_transfer.ray_transport import RayKVTransport
from common.kv_transfer.transport import TransferError
from common.messages import SamplingParams, WorkRequest
from common.worker.host import build_host
from decode_worker.pull_credit import AT_HAND
from decode_worker.worker import make_decode_worker
from deploy.actors import WorkerActor
from deploy.ray_session import start_ray, stop_ray
from tests.integration.support.in_process_workers import Answers, in_engine, load_now, until
from tests.integration.support.kv_faults import Gate
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    save_model,
)

pytestmark = pytest.mark.deployment

NAMESPACE = "spill"
MIB = 2**20
NUM_PROMPTS, LENGTH = 16, 480  # 15 MiB of KV each, 240 together, in a store of 128 MiB
TRANSFER = TransferConfig(max_inflight_mib=16, max_concurrent_pulls=NUM_PROMPTS)
GREEDY = SamplingParams(temperature=0.0, seed=0, max_tokens=2)
DRAW = random.Random(9)
PROMPTS = [tuple(DRAW.randrange(VOCAB) for _ in range(LENGTH)) for _ in range(NUM_PROMPTS)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of few weights and much KV: 2 x 2 x 16 x 128 x 4 bytes are 32 KiB a token."""
    folder = tmp_path_factory.mktemp("wide")
    wide = {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128}
    return save_model(folder, "llama", **wide)


def spec(model: Path, name: str, role: str, kv_cache_gib: float) -> WorkerSpec:
    return WorkerSpec.model_validate(
        {
            "name": name,
            "role": role,
            "model_dir": model,
            "model_name": "wide",
            "namespace": NAMESPACE,
            "bind_host": "127.0.0.1",
            "num_threads": 1,
            "engine": engine_config(kv_cache_gib=kv_cache_gib, max_batch_tokens=128),
            "transfer": TRANSFER,
        }
    )


def create(model: Path, name: str) -> ActorHandle:
    """Return the process of a prefill worker that is not started."""
    actor: Any = WorkerActor
    handle: ActorHandle = actor.options(name=name, namespace=NAMESPACE).remote(
        spec(model, name, "prefill", 0.1)
    )
    return handle


@pytest.fixture(scope="module")
def prefill(model: Path) -> Iterator[ActorHandle]:
    """Yield a prefill worker in a Ray of its own."""
    start_ray(ServeConfig(namespace=NAMESPACE, transfer=TRANSFER), num_cpus=2)
    try:
        handle = create(model, "prefill-0")
        ray.get(handle.start.remote(), timeout=WITHIN_S)
        yield handle
    finally:
        stop_ray()
        with warnings.catch_warnings():
            # Ray ends its processes without waiting for them, and Python warns when they are
            # collected
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture
def store(prefill: ActorHandle) -> Iterator[RayNodeStore]:
    """Yield the store as a second worker of the node sees it."""
    store = RayNodeStore("decode-0", NAMESPACE, TRANSFER.store_share)
    yield store
    store.close()


def test_many_long_prompts_at_once_never_spill(model: Path, store: RayNodeStore) -> None:
    crashes: list[BaseException] = []
    answers, gate = Answers(), Gate()
    decode_spec = spec(model, "decode-0", "decode", 0.3)
    host = build_host(decode_spec, crashes.append, store)
    decode = make_decode_worker(decode_spec, host, RayKVTransport(NAMESPACE))
    decode.subscribe(answers.take)
    decode.subscribe(lambda _: gate.hold())
    decode.start()
    for index, prompt in enumerate(PROMPTS):
        decode.submit(WorkRequest(str(index), 0, prompt, GREEDY, "prefill-0"))
    inbox = decode._engine._inbox
    gate.wait_reached()  # the engine takes no more items, and prefill runs on
    until(lambda: inbox._arrivals.qsize() >= AT_HAND * len(inbox.pulls), "full at decode's end")
    load = decode._engine.load()  # the engine is at the gate
    assert load.credit_bytes == TRANSFER.max_inflight_mib * MIB
    assert load.credit_wanted_bytes > 4 * load.credit_bytes, "nobody waits for credit"
    gate.open()

    finished = [answers.finished(str(index)) for index in range(NUM_PROMPTS)]
    reference = load_reference(model)
    for index in (0, NUM_PROMPTS - 1):
        assert finished[index].tokens == continue_greedily(reference, [*PROMPTS[index]], 2)
    store._refresh()
    assert store.spilled_bytes() == 0
    load = load_now(decode)
    assert (load.prefill_fallbacks, load.prefill_tokens) == (0, 0)
    assert load.kv_bytes == NUM_PROMPTS * LENGTH * 32 * 1024
    assert load.credit_wanted_bytes == 0
    in_engine(decode, decode._engine.check_integrity)
    decode.stop(WITHIN_S)
    assert not crashes


def test_the_workers_of_a_node_share_it_as_they_come_and_go(
    prefill: ActorHandle, store: RayNodeStore
) -> None:
    alone = int(TRANSFER.store_share * 128 * MIB)
    assert store.share_bytes() == alone // 2
    third = RayNodeStore("prefill-1", NAMESPACE, TRANSFER.store_share)
    store._refresh()
    assert store.share_bytes() == third.share_bytes() == alone // 3
    third.close()
    store._refresh()
    assert store.share_bytes() == alone // 2
    ray.kill(prefill)  # like a crash: the worker cannot release its objects
    until(lambda: store.share_bytes() == alone, "alone on the node")


@pytest.mark.usefixtures("prefill")
def test_a_stream_that_comes_before_the_start_does_not_hold_it_up(model: Path) -> None:
    """A decode worker finds the name of a restarted worker as soon as its process has it."""
    handle = create(model, "prefill-1")
    request = WorkRequest("early", 0, PROMPTS[0], GREEDY, "prefill-1")
    early = RayKVTransport(NAMESPACE).open("prefill-1", request)
    with pytest.raises(TransferError):
        early.next(WITHIN_S)
    ray.get(handle.start.remote(), timeout=WITHIN_S)
    ray.kill(handle)
