"""Order of work: KV beside decode steps, a worker's parts at its end."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from common.config import TransferConfig
from common.kv_transfer.node_store import FixedStore
from common.kv_transfer.wire import WireItem
from common.messages import SamplingParams, StepOutput, WorkRequest
from tests.integration.support.eight_prompts import PROMPTS, sampling
from tests.integration.support.in_process_workers import Workers, held, in_engine, until
from tests.integration.support.kv_faults import Gate, hold_at, meddle
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import engine_config, save_model

KV_BYTES, CHUNK = 512, 16  # of one token; tokens of a step
STEPS_OF_16 = engine_config(num_blocks=400, max_batch_tokens=CHUNK, max_num_seqs=8)
ENDLESS = SamplingParams(temperature=0.0, seed=0, max_tokens=6000, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def test_between_two_tokens_no_more_kv_is_copied_in_than_a_step_may(model: Path) -> None:
    """Inserts are bounded however many prompts end at the same time, each with token 1 and its KV."""
    arrive, decode = Gate(), Gate()
    seen: list[int] = []

    def note(output: StepOutput) -> None:
        if output.load and any(one.request_id == "reader" for one in output.sequences):
            seen.append(output.load.kv_bytes)

    transfer = TransferConfig(inserts_per_step=1)
    with Workers(
        model,
        prefill_config=STEPS_OF_16,
        decode_config=STEPS_OF_16,
        transfer=transfer,
        wrap=meddle(hold_at(0, arrive)),
    ) as workers:
        workers.decode.subscribe(note)
        workers.submit("reader", PROMPTS[0], ENDLESS, prefill=None)
        workers.answers.wait("reader", lambda answer: len(answer.tokens) > 2)
        inbox = workers.decode._engine._inbox
        for index in range(4):
            workers.submit(str(index), [index] * CHUNK, sampling(index, 2))
        until(lambda: in_engine(workers.decode, lambda: len(inbox.pulls)) == 4, "pulling")
        workers.decode._loop.post(decode.hold)
        decode.wait_reached()
        arrive.open()
        until(lambda: inbox._arrivals.qsize() == 8, "there, token 1 and KV of each")
        decode.open()
        for index in range(4):
            workers.answers.finished(str(index))
        workers.decode.cancel("reader")
        workers.check_at_rest()
    assert max(seen) == 4 * CHUNK * KV_BYTES
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) == CHUNK * KV_BYTES


def test_pieces_count_by_their_tokens_not_by_their_number(model: Path) -> None:
    """With a store of 8 KiB a pull is sent two tokens at a time, and a step may still insert 16."""
    arrive, decode = Gate(), Gate()
    transfer = TransferConfig(inserts_per_step=1)
    with Workers(
        model,
        decode_config=STEPS_OF_16,
        transfer=transfer,
        store=FixedStore(8 * 1024),
        wrap=meddle(hold_at(0, arrive)),
    ) as workers:
        inbox = workers.decode._engine._inbox
        for index in range(2):
            workers.submit(str(index), [index] * CHUNK, sampling(index, 2))
        until(lambda: in_engine(workers.decode, lambda: len(inbox.pulls)) == 2, "pulling")
        workers.decode._loop.post(decode.hold)
        decode.wait_reached()
        arrive.open()
        until(lambda: inbox._arrivals.qsize() == 6, "token 1 and two pieces of each")
        found = inbox.collect()  # the engine is at the gate
        assert 4 * 2 * KV_BYTES <= found.num_bytes <= CHUNK * KV_BYTES
        for index in range(2):
            workers.decode.cancel(str(index))
        decode.open()
        workers.check_at_rest()


def test_a_stream_that_waits_for_room_ends_when_it_is_cancelled_though_its_prompt_has_run(
    model: Path,
) -> None:
    with Workers(model, store=FixedStore(0)) as workers:
        prefill, source = workers.prefill, workers.source
        first, second = (
            WorkRequest(name, 0, tuple(PROMPTS[4]), sampling(4), max_item_tokens=CHUNK)
            for name in ("first", "second")
        )
        reading = source.stream(first)
        until(lambda: next(reading)[1] is not None, "with all the room there is")
        waiting: Iterator[WireItem] = source.stream(second)
        found: list[WireItem] = []
        reader = threading.Thread(target=lambda: found.extend(waiting), daemon=True)
        reader.start()
        key = ("second", 0)
        until(lambda: key in in_engine(prefill, lambda: dict(prefill._engine._ended)), "run")
        source.cancel_stream(*key)
        reader.join(WITHIN_S)
        assert not reader.is_alive()
        assert [payload for _, payload in found] in ([], [None])  # token 1 at most
        for _ in reading:
            pass
        until(lambda: held(prefill) == 0, "free")
        assert source.credit.taken_bytes == 0


def test_a_worker_stops_its_engine_before_it_ends_what_the_engine_uses(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[bool] = []

    def note(close: Callable[[], None], thread: threading.Thread) -> None:
        alive.append(thread.is_alive())
        close()

    with Workers(model) as workers:
        for worker in (workers.prefill, workers.decode):
            engine, thread = worker._engine, worker._loop._thread
            monkeypatch.setattr(engine, "close", partial(note, engine.close, thread))
            assert worker.stop(WITHIN_S)
    assert alive[:2] == [False, False]
