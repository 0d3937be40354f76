"""A cancel in any phase frees everything on both sides, and harms no other request."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.config import EngineConfig
from common.kv_transfer.in_process import InProcessStream, InProcessTransport
from common.kv_transfer.wire import WireItem
from common.messages import SamplingParams, WorkRequest
from tests.integration.support.in_process_workers import (
    CHUNKS_OF_16,
    PREFILL,
    Workers,
    held,
    load_now,
    until,
)
from tests.integration.support.kv_faults import (
    Gate,
    has_mail,
    held_engine,
    hold_at,
    meddle,
)
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model

PROMPT = [(7 * i) % VOCAB for i in range(40)]
SHORT = SamplingParams(temperature=0.8, seed=3, max_tokens=12)
ENDLESS = SamplingParams(temperature=0.8, seed=3, max_tokens=6000)
ROOMY = engine_config(num_blocks=400)
ONE_AT_A_TIME = engine_config(num_blocks=400, max_num_seqs=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[int]:
    with Workers(model) as workers:
        workers.submit("r", PROMPT, SHORT)
        return workers.answers.finished("r").tokens


Start = Callable[..., Workers]


@pytest.fixture
def start(model: Path, undisturbed: list[int]) -> Iterator[Start]:
    """Start workers; check at the end that they are at rest and that a last request runs well."""
    made: list[Workers] = []

    def make(decode_config: EngineConfig = ROOMY, gate: Gate | None = None, at: int = 0) -> Workers:
        wrap = meddle(hold_at(at, gate)) if gate else lambda source: source
        workers = Workers(
            model, prefill_config=CHUNKS_OF_16, decode_config=decode_config, wrap=wrap
        )
        made.append(workers.__enter__())
        return workers

    yield make
    for workers in made:
        try:
            workers.check_at_rest()
            workers.submit("last", PROMPT, SHORT)
            assert workers.answers.finished("last").tokens == undisturbed
            workers.check_at_rest()
        finally:
            workers.__exit__(None, None, None)


def read(stream: InProcessStream) -> list[WireItem]:
    items = []
    while (item := stream.next(WITHIN_S)) is not None:
        items.append(item)
    return items


def check_silent(workers: Workers, request_id: str) -> None:
    """Check that a cancelled request publishes no more: neither tokens nor an end."""
    before = workers.answers.seen(request_id)
    workers.check_at_rest()
    assert workers.answers.seen(request_id) == before
    assert not workers.answers.has_ended(request_id)


def test_while_it_waits_for_a_slot_on_decode(start: Start) -> None:
    workers = start(ONE_AT_A_TIME)
    workers.submit("running", PROMPT, ENDLESS)
    workers.answers.wait("running", lambda answer: len(answer.tokens) >= 2)
    workers.submit("queued", PROMPT, SHORT)
    until(lambda: load_now(workers.decode).num_waiting == 1, "queued")
    workers.decode.cancel("queued")
    assert load_now(workers.decode).num_waiting == 0
    workers.decode.cancel("running")
    check_silent(workers, "queued")
    assert workers.answers.seen("queued") == []


def test_while_it_is_queued_on_prefill(start: Start) -> None:
    workers = start()
    with held_engine(workers.prefill):
        workers.submit("r", PROMPT, SHORT)
        until(lambda: has_mail(workers.prefill), "asked for")
        assert held(workers.decode) == 3
        workers.decode.cancel("r")
        assert held(workers.decode) == 0
        # told by the thread that asked, if it was still busy asking
        until(lambda: has_mail(workers.prefill, 2), "told")
    check_silent(workers, "r")
    assert load_now(workers.prefill).steps == 0


def test_while_its_prompt_is_computed(start: Start) -> None:
    workers, gate = start(), Gate()
    workers.prefill.subscribe(lambda _: gate.hold())
    workers.submit("r", PROMPT, SHORT)
    gate.wait_reached()
    workers.decode.cancel("r")
    assert held(workers.decode) == 0
    until(lambda: has_mail(workers.prefill), "told")
    gate.open()
    check_silent(workers, "r")
    assert load_now(workers.prefill).prefill_tokens == 16


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_while_its_kv_is_on_the_way(start: Start, at: int) -> None:
    """The cancel comes before the first chunk, between chunks, before token 1, or before the last chunk."""
    gate = Gate()
    workers = start(gate=gate, at=at)
    workers.submit("r", PROMPT, SHORT)
    gate.wait_reached()
    if at == 3:
        workers.answers.wait("r", lambda answer: len(answer.tokens) == 1)
    workers.decode.cancel("r")
    assert held(workers.decode) == 0
    gate.open()
    check_silent(workers, "r")


def test_while_it_waits_to_run_on_decode_alone(start: Start) -> None:
    workers = start(ONE_AT_A_TIME)
    for name in ("running", "waiting"):
        workers.submit(name, PROMPT, ENDLESS, prefill=None)
    workers.answers.wait("running", lambda answer: len(answer.tokens) >= 2)
    assert load_now(workers.decode).num_waiting == 1
    workers.decode.cancel("waiting")
    workers.decode.cancel("running")
    check_silent(workers, "waiting")


@pytest.mark.parametrize("prefill", [PREFILL, None])
def test_while_it_decodes(start: Start, prefill: str | None) -> None:
    workers = start()
    workers.submit("r", PROMPT, ENDLESS, prefill=prefill)
    workers.answers.wait("r", lambda answer: len(answer.tokens) >= 5)
    workers.decode.cancel("r")
    assert held(workers.decode) == 0
    check_silent(workers, "r")


def test_others_do_not_notice(start: Start, undisturbed: list[int]) -> None:
    workers = start()
    for index in range(6):
        sampling = SHORT if index % 2 else ENDLESS
        workers.submit(f"r{index}", PROMPT, sampling)
    for index in (0, 2, 4):
        workers.answers.wait(f"r{index}", lambda answer: len(answer.tokens) >= 1)
        workers.decode.cancel(f"r{index}")
    for index in (1, 3, 5):
        assert workers.answers.finished(f"r{index}").tokens == undisturbed


def test_a_cancel_of_nothing_or_of_what_is_over_changes_nothing(
    start: Start, undisturbed: list[int]
) -> None:
    workers = start()
    workers.decode.cancel("r")
    workers.submit("r", PROMPT, SHORT)
    assert workers.answers.finished("r").tokens == undisturbed
    workers.decode.cancel("r")


def test_a_cancel_that_overtakes_its_prompt_on_prefill_is_kept_for_it(start: Start) -> None:
    """The cancel counts once: the next prompt of that name is another one."""
    workers = start()
    request = WorkRequest("r", 0, tuple(PROMPT), SHORT)
    workers.source.cancel_stream("r", 0)
    assert list(workers.source.stream(request)) == []
    assert load_now(workers.prefill).steps == 0
    assert len(list(workers.source.stream(request))) == 4


def test_a_cancel_of_another_attempt_is_not_meant(start: Start) -> None:
    workers = start()
    workers.source.cancel_stream("r", 0)
    assert len(list(workers.source.stream(WorkRequest("r", 1, tuple(PROMPT), SHORT)))) == 4


def test_a_second_stream_of_one_prompt_ends_the_first(start: Start) -> None:
    workers, gate = start(), Gate()
    transport = InProcessTransport({PREFILL: workers.source})
    request = WorkRequest("r", 0, tuple(PROMPT), SHORT)
    workers.prefill.subscribe(lambda _: gate.hold())
    first = transport.open(PREFILL, request)
    gate.wait_reached()
    second = transport.open(PREFILL, request)
    until(lambda: has_mail(workers.prefill), "asked for again")
    gate.open()
    assert [len(read(stream)) for stream in (first, second)] == [1, 4]


def test_a_reader_that_goes_away_frees_prefill(start: Start) -> None:
    workers, gate = start(), Gate()
    workers.prefill.subscribe(lambda _: gate.hold())
    items = workers.source.stream(WorkRequest("r", 0, tuple(PROMPT), SHORT))
    next(items)
    items.close()  # type: ignore[attr-defined]
    gate.open()
    until(lambda: held(workers.prefill) == 0, "free")
    assert load_now(workers.prefill).prefill_tokens == 16
