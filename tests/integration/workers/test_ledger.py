"""Ledgers of a worker's blocks agree with its pool."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from common.ledger import (
    BlockHolder,
    BlockLedger,
    BlockQuestion,
    HeldBlocks,
    HolderState,
    Integrity,
    StreamUse,
)
from common.messages import SamplingParams, WorkRequest
from prefill_worker.outbox import KVOutbox
from tests.integration.support.eight_prompts import PROMPTS, ROOMY, sampling
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    Worker,
    Workers,
    expect_short_answers,
    in_engine,
    until,
)
from tests.integration.support.kv_faults import Gate, hold_at, meddle
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import engine_config, save_model

PROMPT = list(range(3, 43))  # 40 tokens: 2 whole blocks of 16 and a half
ENDLESS = SamplingParams(temperature=0.8, seed=3, max_tokens=6000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def ledger_of(worker: Worker, request_id: str = "") -> BlockLedger:
    future: Future[BlockLedger] = Future()
    worker.ask_blocks(BlockQuestion(request_id, is_check=True), future.set_result)
    ledger = future.result(WITHIN_S)
    assert ledger.blocks_unaccounted == 0
    assert ledger.integrity == Integrity(is_checked=True)
    held = sum(each.num_blocks for each in ledger.held)
    assert request_id or held + ledger.blocks_free == ledger.blocks_total
    return ledger


def states(ledger: BlockLedger) -> dict[str, HolderState]:
    return {holder.request_id: holder.state for holder in ledger.holders}


def one(ledger: BlockLedger) -> BlockHolder:
    (holder,) = ledger.holders
    return holder


def until_seen(worker: Worker, is_seen: Callable[[BlockLedger], bool], what: str) -> BlockLedger:
    """Return the first ledger that fulfils the condition."""
    seen: list[BlockLedger] = []

    def look() -> bool:
        seen.append(ledger_of(worker))
        return is_seen(seen[-1])

    until(look, what)
    return seen[-1]


def test_blocks_are_the_sequence_s_from_the_pull_to_the_end(model: Path) -> None:
    gate = Gate()
    with Workers(
        model, prefill_config=CHUNKS_OF_16, decode_config=ROOMY, wrap=meddle(hold_at(3, gate))
    ) as workers:
        assert ledger_of(workers.decode).holders == ()
        workers.submit("r", PROMPT, ENDLESS)
        gate.wait_reached()
        workers.answers.wait("r", lambda answer: bool(answer.tokens))
        # 32 tokens are here, the last 8 are held at the gate; blocks for 41 are reserved
        pulling = one(until_seen(workers.decode, lambda o: one(o).num_computed_tokens == 32, "in"))
        assert (pulling.state, pulling.num_blocks) == (HolderState.PULLING, 3)
        assert pulling.num_tokens == 41
        assert ledger_of(workers.decode).held == (HeldBlocks(HolderState.PULLING, 1, 3),)
        use = ledger_of(workers.decode).streams
        assert (use.num_streams, use.num_bytes > 0) == (1, True)
        assert ledger_of(workers.prefill).holders == (), "prefill waits for nobody"
        assert ledger_of(workers.prefill).streams.num_streams == 1
        gate.open()
        workers.answers.wait("r", lambda answer: len(answer.tokens) > 1)
        assert ledger_of(workers.decode).streams == StreamUse()
        until(lambda: ledger_of(workers.prefill).streams == StreamUse(), "the stream has ended")
        decoding = one(ledger_of(workers.decode))
        assert decoding.state is HolderState.DECODING
        assert decoding.num_computed_tokens == decoding.num_tokens - 1 > 40
        workers.decode.cancel("r")
        assert ledger_of(workers.decode).holders == ()
        workers.check_at_rest()


def test_a_prefix_in_common_is_counted_with_each_and_held_once(model: Path) -> None:
    with Workers(model, decode_config=ROOMY) as workers:
        for name in ("a", "b"):
            workers.submit(name, PROMPT, ENDLESS, prefill=None)
            workers.answers.wait(name, lambda answer: bool(answer.tokens))
        engine = workers.decode._engine
        ledger, load = in_engine(workers.decode, lambda: (engine.ledger(""), engine.load()))
        assert [holder.num_shared_blocks for holder in ledger.holders] == [2, 2]
        held = sum(holder.num_blocks for holder in ledger.holders) - 2
        assert (
            held == load.blocks_total - load.blocks_free == ledger.blocks_total - ledger.blocks_free
        )
        (each,) = ledger.held
        assert (each.num_requests, each.num_blocks) == (2, held)
        asked = ledger_of(workers.decode, "b")
        assert (one(asked).request_id, asked.num_holders) == ("b", 1)
        assert ledger_of(workers.decode, "c").num_holders == 0
        for name in ("a", "b"):
            workers.decode.cancel(name)
        workers.check_at_rest()
        rest = ledger_of(workers.decode)
        assert (rest.blocks_free, rest.num_holders) == (rest.blocks_total, 0)
        assert rest.blocks_cached > 0


def test_a_check_tells_what_does_not_hold_and_the_worker_goes_on(model: Path) -> None:
    with Workers(model) as workers:
        shell, pool = workers.decode, workers.decode._engine._engine.pool

        def steal_and_ask() -> BlockLedger:
            """Hold a block that is nobody's, within one message: the check when idle sees nothing."""
            stolen = pool.allocate(1)
            ledger = shell._answer(BlockQuestion(is_check=True))
            pool.release(stolen)
            return ledger

        ledger = in_engine(shell, steal_and_ask)
        assert ledger.blocks_unaccounted == 1
        assert ledger.integrity.problem.startswith("reference counts differ from holders")
        unasked = in_engine(shell, lambda: shell._answer(BlockQuestion()))
        assert unasked.integrity == Integrity()
        assert ledger_of(shell).integrity.problem == ""


@pytest.mark.parametrize(
    ("mode", "state"), [("swap", HolderState.SWAPPED), ("recompute", HolderState.PREEMPTED)]
)
def test_under_pressure_some_have_lost_their_blocks(
    model: Path, mode: str, state: HolderState
) -> None:
    with Workers(model, decode_config=engine_config(num_blocks=12, preemption=mode)) as workers:
        expect_short_answers(workers.decode)
        for index, prompt in enumerate(PROMPTS):
            workers.submit(str(index), prompt, sampling(index), prefill=None)
        ledger = until_seen(
            workers.decode, lambda ledger: state in states(ledger).values(), "preempted"
        )
        for holder in ledger.holders:
            is_out = holder.state in (state, HolderState.QUEUED)
            assert (holder.num_blocks == 0) == is_out
            assert (holder.host_bytes > 0) == (holder.state is HolderState.SWAPPED)
        for index in range(len(PROMPTS)):
            workers.decode.cancel(str(index))
        workers.check_at_rest()


def test_prompts_hold_what_they_run_in_on_the_prefill_worker(model: Path) -> None:
    with Workers(model, prefill_config=CHUNKS_OF_16) as workers:
        worker = workers.prefill
        sequences = [
            worker._engine._engine.prefix.new_sequence(
                WorkRequest(name, 0, tuple(tokens), ENDLESS), 0.0
            )
            for name, tokens in (("long", range(3, 83)), ("short", range(20)))
        ]

        def step_once() -> tuple[BlockLedger, BlockLedger]:
            """Two prompts come and one step of 16 tokens runs; nothing else does meanwhile."""
            engine = worker._engine
            for seq in sequences:
                engine.accept(seq, KVOutbox())
            before = engine.ledger("")
            engine.step()
            return before, engine.ledger("")

        before, after = in_engine(worker, step_once)
        assert set(states(before).values()) == {HolderState.QUEUED}
        assert states(after) == {"short": HolderState.PREFILLING, "long": HolderState.QUEUED}
        assert [(h.num_blocks, h.num_computed_tokens) for h in after.holders] == [(2, 16), (0, 0)]
        until(lambda: ledger_of(worker).num_holders == 0, "done")
        workers.check_at_rest()
