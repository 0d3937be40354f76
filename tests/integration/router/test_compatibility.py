"""Workers that do not fit each other: refused by name, without effects on others."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.messages import Role, WorkerInfo
from common.rpc.convert import info_to_pb
from pdserve.errors import SetupError
from pdserve.v1 import admin_pb2, worker_pb2
from router.workers.compatibility import check_compatibility
from tests.integration.support.handwritten_worker import Messages, handwritten_worker
from tests.integration.support.router_stack import collect, routing, serving, text_of
from tests.integration.support.scripted_worker import ScriptedWorker, echo
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import write_folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def as_bfloat16(worker: ScriptedWorker) -> ScriptedWorker:
    info = worker.info
    worker.info = replace(info, model_fingerprint="aa-bfloat16", dtype="bfloat16", wire_version=1)
    return worker


KNOWN = as_bfloat16(ScriptedWorker("prefill-0", Role.PREFILL)).info
DIFFERENCES = {
    "dtype float32, worker prefill-0 has bfloat16": {
        "dtype": "float32",
        "model_fingerprint": "aa-float32",
    },
    "dtype bfloat16/int8, worker prefill-0 has bfloat16": {
        "dtype": "bfloat16/int8",
        "model_fingerprint": "aa-bfloat16-int8",
    },
    "model bb-bfloat16, worker prefill-0 has aa-bfloat16": {"model_fingerprint": "bb-bfloat16"},
    "KV wire version 2, worker prefill-0 has 1": {"wire_version": 2},
}


def different(worker: WorkerInfo, words: str) -> WorkerInfo:
    return replace(worker, **DIFFERENCES[words])  # type: ignore[arg-type]


@pytest.mark.parametrize("words", DIFFERENCES)
def test_both_are_named_and_what_they_differ_in(words: str) -> None:
    new = different(replace(KNOWN, name="decode-1"), words)
    with pytest.raises(SetupError) as caught:
        check_compatibility(new, KNOWN)
    assert str(caught.value).startswith(f"worker decode-1 has {words}")
    check_compatibility(replace(KNOWN, name="decode-1"), KNOWN)


def test_two_kinds_of_cpus_are_told_what_each_chose_and_to_set_the_dtype() -> None:
    known = replace(KNOWN, dtype_reason="as fast as float32 on avx2")
    new = replace(KNOWN, name="decode-1", dtype="float32", dtype_reason="the fastest on baseline")
    with pytest.raises(SetupError) as caught:
        check_compatibility(new, known)
    assert str(caught.value) == (
        "worker decode-1 has dtype float32, worker prefill-0 has bfloat16. set engine.dtype "
        "(float32: the fastest on baseline; bfloat16: as fast as float32 on avx2)"
    )
    check_compatibility(replace(new, dtype="bfloat16"), known)  # reasons may differ


@pytest.mark.parametrize(
    ("dtype", "setting"),
    [
        ("bfloat16/int4", "engine.quantization"),
        ("bfloat16/int4+kv-int8", "engine.quantization"),
        ("bfloat16+kv-int8", "engine.kv_cache_dtype"),
        ("bfloat16+kv-fp8", "engine.kv_cache_dtype"),
        ("float32+kv-int8", "engine.dtype"),
    ],
)
def test_quantized_numbers_beside_full_ones_are_told_which_setting_to_set(
    dtype: str, setting: str
) -> None:
    new = replace(KNOWN, name="decode-1", dtype=dtype)
    with pytest.raises(SetupError) as caught:
        check_compatibility(new, KNOWN)
    assert str(caught.value) == (
        f"worker decode-1 has dtype {dtype}, worker prefill-0 has bfloat16. set {setting}"
    )


async def test_a_deployment_whose_workers_differ_does_not_start(model_dir: Path) -> None:
    one, other = as_bfloat16(ScriptedWorker("decode-0")), ScriptedWorker("prefill-0", Role.PREFILL)
    began_s = time.monotonic()
    with pytest.raises(SetupError, match=r"dtype .*set engine\.dtype") as caught:
        async with serving(model_dir, one, other):
            pass
    assert time.monotonic() - began_s < WITHIN_S  # the call neither waits for the timeout nor hangs
    assert "decode-0" in str(caught.value)
    assert "prefill-0" in str(caught.value)


@pytest.mark.parametrize("words", DIFFERENCES)
async def test_a_worker_that_comes_back_as_another_is_refused_and_the_others_serve_on(
    model_dir: Path, words: str
) -> None:
    kept = as_bfloat16(ScriptedWorker("decode-0", script=echo))
    first = replace(kept.info, name="decode-1")
    second = different(first, words)
    goes, infos = asyncio.Event(), iter((first, second))
    submitted: list[worker_pb2.ConnectRequest] = []

    async def changed() -> Messages:
        info = next(infos)  # a third connection would end it
        yield worker_pb2.ConnectResponse(info=info_to_pb(info))
        yield worker_pb2.ConnectResponse(
            load=admin_pb2.WorkerLoad(blocks_total=16, blocks_free=16, block_size=16)
        )
        await (goes.wait() if info is first else asyncio.Event().wait())

    async with handwritten_worker(changed, submitted) as address, serving(model_dir, kept) as stack:
        addresses = [stack.router._pool._links[0].address, address]
        async with routing(model_dir, addresses) as both:
            goes.set()
            links = both.router._pool._links
            async with asyncio.timeout(WITHIN_S):
                while links[1].refusal is None:
                    await asyncio.sleep(0.01)
            texts = [text_of(await collect(both.client, f"text {n}")) for n in range(6)]
            assert texts == [f"text {n}" for n in range(6)]
            status = await both.client.status()
            states = {worker.name: worker.state for worker in status.workers}
            assert states == {
                "decode-0": admin_pb2.WORKER_STATE_READY,
                "decode-1": admin_pb2.WORKER_STATE_UNREACHABLE,
            }
    assert len(kept.requests) == 6
    assert not any(message.HasField("submit") for message in submitted)
