"""Whatever happens to a transfer, the text is that of an undisturbed run and no block stays held."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.config import TransferConfig
from common.kv_transfer.transport import KVSource
from common.kv_transfer.wire import WireItem, decode_header, encode_header, make_failure
from common.messages import FinishReason, SamplingParams
from pdserve.errors import Reason
from tests.integration.support.in_process_workers import CHUNKS_OF_16, Workers, load_now
from tests.integration.support.kv_faults import (
    Gate,
    Rewrite,
    change_at,
    die_at,
    end_at,
    flip_header,
    flip_payload,
    hold_at,
    meddle,
)
from tests.patience import WITHIN_S, ever_longer
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model

PROMPT = [(7 * i) % VOCAB for i in range(40)]
SAMPLING = SamplingParams(temperature=0.8, seed=3, max_tokens=12)
Wrap = Callable[[KVSource], KVSource]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def undisturbed(model: Path) -> list[int]:
    with Workers(model) as workers:
        workers.submit("r", PROMPT, SAMPLING)
        tokens = workers.answers.finished("r").tokens
        assert load_now(workers.decode).prefill_fallbacks == 0
    assert len(set(tokens)) > 4
    return tokens


@pytest.fixture
def make_workers(model: Path) -> Iterator[Callable[..., Workers]]:
    """Make workers that are stopped at the end."""
    made: list[Workers] = []

    def make(wrap: Wrap = lambda source: source, item_timeout_s: float = WITHIN_S) -> Workers:
        transfer = TransferConfig.model_validate({"item_timeout_s": item_timeout_s})
        workers = Workers(model, prefill_config=CHUNKS_OF_16, transfer=transfer, wrap=wrap)
        made.append(workers.__enter__())
        return workers

    yield make
    for workers in made:
        workers.__exit__(None, None, None)


def check_fallback(
    workers: Workers, undisturbed: list[int], *, recomputed: int, rejected: int = 0
) -> None:
    """Check that the one request ends well after decode computed `recomputed` tokens.

    These are of the prompt, and token 1 if it came."""
    assert workers.answers.finished("r").tokens == undisturbed
    workers.check_at_rest()
    load = load_now(workers.decode)
    assert (load.prefill_fallbacks, load.kv_rejected) == (1, rejected)
    assert load.prefill_tokens == recomputed


def test_a_prefill_worker_that_is_not_there(
    make_workers: Callable[..., Workers], undisturbed: list[int]
) -> None:
    workers = make_workers()
    workers.submit("r", PROMPT, SAMPLING, prefill="prefill-9")
    check_fallback(workers, undisturbed, recomputed=40)


@pytest.mark.parametrize(("index", "recomputed"), [(0, 40), (1, 24), (2, 8), (3, 9)])
@pytest.mark.parametrize("ending", [die_at, end_at])
def test_a_stream_that_breaks_off_is_continued_from_what_arrived(
    make_workers: Callable[..., Workers],
    undisturbed: list[int],
    ending: Callable[[int], Rewrite],
    index: int,
    recomputed: int,
) -> None:
    workers = make_workers(meddle(ending(index)))
    workers.submit("r", PROMPT, SAMPLING)
    check_fallback(workers, undisturbed, recomputed=recomputed)


def test_a_silent_stream_is_given_up(
    make_workers: Callable[..., Workers], undisturbed: list[int]
) -> None:
    for timeout_s in ever_longer(0.1):
        gate = Gate()
        workers = make_workers(meddle(hold_at(1, gate)), item_timeout_s=timeout_s)
        workers.submit("r", PROMPT, SAMPLING)
        assert workers.answers.finished("r").tokens == undisturbed
        if gate.is_reached:  # else it was given up before its first chunk came
            break
        gate.open()
    check_fallback(workers, undisturbed, recomputed=24)
    gate.open()


def test_a_prefill_worker_that_stops_midway(
    make_workers: Callable[..., Workers], undisturbed: list[int]
) -> None:
    for timeout_s in ever_longer(0.2):
        workers = make_workers(item_timeout_s=timeout_s)
        gate = Gate()
        workers.prefill.subscribe(lambda _, gate=gate: gate.hold())  # type: ignore[misc]
        workers.submit("r", PROMPT, SAMPLING)
        gate.wait_reached()
        workers.prefill.stop(0)
        gate.open()
        assert workers.answers.finished("r").tokens == undisturbed
        load = load_now(workers.decode)
        workers.answers.check()
        if load.prefill_tokens != len(PROMPT):  # else it was given up before its first chunk came
            break
    assert (load.prefill_fallbacks, load.prefill_tokens) == (1, 24)


def test_a_prefill_engine_that_crashes_is_reported_and_survived(
    make_workers: Callable[..., Workers], undisturbed: list[int]
) -> None:
    def crash(_: object) -> None:
        raise MemoryError("out of everything")

    for timeout_s in ever_longer(0.2):
        workers = make_workers(item_timeout_s=timeout_s)
        workers.prefill.subscribe(crash)
        workers.submit("r", PROMPT, SAMPLING)
        assert workers.answers.finished("r").tokens == undisturbed
        if workers.crashes:  # else it was given up before it ran
            break
    assert [type(error) for error in workers.crashes] == [MemoryError]


@pytest.mark.parametrize(("index", "recomputed"), [(0, 40), (1, 24), (3, 9)])
def test_a_flipped_bit_of_kv_is_refused_counted_and_computed_again(
    make_workers: Callable[..., Workers], undisturbed: list[int], index: int, recomputed: int
) -> None:
    workers = make_workers(meddle(change_at(index, flip_payload)))
    workers.submit("r", PROMPT, SAMPLING)
    check_fallback(workers, undisturbed, recomputed=recomputed, rejected=1)


@pytest.mark.parametrize(("index", "recomputed"), [(0, 40), (1, 24), (2, 8), (3, 9)])
def test_a_flipped_bit_of_a_header_is_refused_too(
    make_workers: Callable[..., Workers], undisturbed: list[int], index: int, recomputed: int
) -> None:
    workers = make_workers(meddle(change_at(index, flip_header)))
    workers.submit("r", PROMPT, SAMPLING)
    check_fallback(workers, undisturbed, recomputed=recomputed, rejected=1)


def cut_short(item: WireItem) -> list[WireItem]:
    assert item[1] is not None
    return [(item[0], item[1][:-1])]


def with_fields(**changes: object) -> Callable[[WireItem], list[WireItem]]:
    """Return a chunk with the same payload and other fields in its header."""

    def change(item: WireItem) -> list[WireItem]:
        header = decode_header(item[0]).model_copy(update=changes)
        return [(encode_header(header), item[1])]

    return change


STRANGE: dict[str, tuple[int, Callable[[WireItem], list[WireItem]], int, int]] = {
    "a chunk is missing": (1, lambda item: [], 25, 1),
    "a chunk comes twice": (1, lambda item: [item, item], 8, 1),
    "a chunk is cut short": (1, cut_short, 24, 1),
    "a chunk of another model": (1, with_fields(fingerprint="x"), 24, 1),
    "a chunk of another shape": (1, with_fields(layout=(4, ((2, 4, 8, 8),))), 24, 1),
    "a chunk of another request": (1, with_fields(request_id="x"), 24, 1),
    "a chunk out of order": (1, with_fields(start=24, end=40), 24, 1),
    "a chunk without payload": (1, lambda item: [(item[0], None)], 24, 1),
    "token 1 comes twice": (2, lambda item: [item, item], 9, 1),
    "noise": (1, lambda item: [(b"noise", item[1])], 24, 1),
    "another's failure": (1, lambda item: [make_failure("x", 0, Reason.INTERNAL, "")], 24, 1),
    "an older attempt's": (1, lambda item: [make_failure("r", 9, Reason.INTERNAL, "")], 24, 1),
    "prefill gives up": (1, lambda item: [make_failure("r", 0, Reason.INTERNAL, "")], 24, 0),
    "gives up before token 1": (2, lambda item: [make_failure("r", 0, Reason.INTERNAL, "")], 8, 0),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_streams(
    make_workers: Callable[..., Workers], undisturbed: list[int], name: str
) -> None:
    index, change, recomputed, rejected = STRANGE[name]
    workers = make_workers(meddle(change_at(index, change)))
    workers.submit("r", PROMPT, SAMPLING)
    check_fallback(workers, undisturbed, recomputed=recomputed, rejected=rejected)


@pytest.mark.parametrize("last_words", [[], [make_failure("r", 0, Reason.INTERNAL, "")]])
def test_all_kv_but_no_token_1(
    make_workers: Callable[..., Workers], undisturbed: list[int], last_words: list[WireItem]
) -> None:
    """The last position is computed again, to sample from it."""

    def without_token(items: Iterator[WireItem]) -> Iterator[WireItem]:
        yield from (item for item in items if item[1] is not None)
        yield from last_words

    workers = make_workers(meddle(without_token))
    workers.submit("r", PROMPT, SAMPLING)
    check_fallback(workers, undisturbed, recomputed=1)


def test_a_prompt_too_big_for_prefill_runs_on_decode(model: Path, undisturbed: list[int]) -> None:
    with Workers(model, prefill_config=engine_config(num_blocks=2)) as workers:
        workers.submit("r", PROMPT, SAMPLING)
        check_fallback(workers, undisturbed, recomputed=40)


@pytest.mark.parametrize("prefill", ["prefill-0", None])
def test_what_can_never_fit_is_refused_at_once(model: Path, prefill: str | None) -> None:
    with Workers(model, decode_config=engine_config(num_blocks=3)) as workers:
        workers.submit("r", PROMPT, SAMPLING, prefill=prefill)
        failure = workers.answers.finished("r").failure
        assert failure is not None
        assert failure.reason is Reason.KV_CAPACITY_EXCEEDED
        workers.submit("fits", PROMPT[:36], SAMPLING, prefill=prefill)
        assert workers.answers.finished("fits").finish_reason is FinishReason.LENGTH
        workers.check_at_rest()
