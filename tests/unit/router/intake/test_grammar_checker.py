"""The child process that tries grammars out: each is refused or let in, whatever it does to the child."""

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from common.messages import Grammar
from pdserve.errors import InternalError, InvalidRequestError, OverloadedError, Reason
from router.intake.grammar_checker import GrammarChecker
from tests.patience import WITHIN_S, ever_longer
from tests.unit.common.grammar.allowed import EOS, VOCAB, choice, lark, regex, schema
from tests.unit.router.tiny_tokenizer import write_folder

GOOD = regex("[a-z]+")
SLOW = schema('{"type": "integer", "multipleOf": 999983}')  # ten seconds of processor time
DEEP = lark("start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(9000)) + 'r9000: "a"')


def slow(number: int) -> Grammar:
    return schema(f'{{"type": "integer", "multipleOf": {900_007 + 10 * number}}}')


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


@pytest_asyncio.fixture
async def checker(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GrammarChecker]:
    """Return a checker that judges by processor time alone, on any machine."""
    monkeypatch.setattr("router.intake.grammar_checker._MAX_COMPILE_S", WITHIN_S)
    monkeypatch.setattr("router.intake.grammar_checker.MAX_WAIT_S", WITHIN_S)
    checker = GrammarChecker(model_dir, [EOS], VOCAB)
    before = set(psutil.Process().children())
    yield checker
    await checker.close()
    left = [child for child in psutil.Process().children() if child not in before]
    assert not left


async def refusal(checker: GrammarChecker, grammar: Grammar) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        await checker.check(grammar)
    assert caught.value.reason is Reason.INVALID_FIELD
    return caught.value


@pytest.mark.parametrize(
    ("grammar", "field", "message"),
    [
        (regex("(a"), "regex", "unclosed group"),
        (regex("(a{1000}){1000}"), "regex", "too many"),
        (schema('{"type": "strng"}'), "json_schema", "strng"),
        (schema('{"not": {}}'), "json_schema", "Unimplemented keys"),
        (lark("start: x"), "grammar", "x"),
        (SLOW, "json_schema", "more than 0.5 s"),
        (DEEP, "grammar", "nested too deeply"),
    ],
    ids=["syntax", "explodes", "type", "keyword", "name", "slow", "deep"],
)
async def test_a_bad_grammar_is_refused_by_field_and_the_next_is_unharmed(
    checker: GrammarChecker, grammar: Grammar, field: str, message: str
) -> None:
    error = await refusal(checker, grammar)
    assert error.field == f"sampling.structured_output.{field}"
    assert message in error.message
    await checker.check(GOOD)


async def test_what_was_asked_before_is_answered_from_memory(checker: GrammarChecker) -> None:
    await checker.check(GOOD)
    await refusal(checker, SLOW)
    assert checker._child is None
    await checker.check(GOOD)
    assert (await refusal(checker, SLOW)).message
    assert checker._child is None, "nobody was asked"


async def test_memory_is_bounded(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.intake.grammar_checker._MAX_REMEMBERED", 3)
    for text in "abcdef":
        await checker.check(choice(text))
    assert [grammar.texts for grammar in checker._verdicts] == [("d",), ("e",), ("f",)]


async def test_many_at_once_get_their_own_answers(checker: GrammarChecker) -> None:
    async def ask(number: int) -> bool:
        try:
            await checker.check(regex(f"x{{{number}}}" if number % 2 else f"x{{{number}"))
        except InvalidRequestError:
            return False
        return True

    answers = await asyncio.gather(*(ask(number) for number in range(40)))
    assert answers == [bool(number % 2) for number in range(40)]


async def test_a_slow_grammar_costs_half_a_second_of_processor_time(
    checker: GrammarChecker,
) -> None:
    await checker.check(GOOD)
    assert checker._child is not None
    started = sum(psutil.Process(checker._child.pid).cpu_times()[:2])
    before = _seconds_of_children()
    await refusal(checker, SLOW)
    assert 0.4 < _seconds_of_children() - before - started < 1.0


def _seconds_of_children() -> float:
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def test_nobody_waits_for_ever(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of many slow grammars are refused, and the others are told to come back.

    Together they take at least six times as long as one of them may wait.
    """
    for attempt, wait_s in enumerate(ever_longer(1.5)):
        await checker.check(GOOD)
        monkeypatch.setattr("router.intake.grammar_checker.MAX_WAIT_S", wait_s)
        results = await asyncio.gather(
            *(checker.check(slow(20 * attempt + number)) for number in range(20)),
            return_exceptions=True,
        )
        kinds = {type(result) for result in results}
        if InvalidRequestError in kinds:  # else the machine was too busy for the first, too
            break
    assert kinds == {InvalidRequestError, OverloadedError}
    await checker.check(GOOD)


async def test_so_many_wait_and_no_more(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.intake.grammar_checker._MAX_WAITING", 3)
    for turn in range(2):
        results = await asyncio.gather(
            *(checker.check(choice(f"{turn}{number}")) for number in range(5)),
            return_exceptions=True,
        )
        assert results[:3] == [None] * 3
        assert {type(result) for result in results[3:]} == {OverloadedError}


async def test_a_caller_that_leaves_does_not_mix_answers_up(checker: GrammarChecker) -> None:
    await checker.check(GOOD)
    leaving = asyncio.ensure_future(checker.check(SLOW))
    while not checker._turn.locked():
        await asyncio.sleep(0)
    leaving.cancel()
    await checker.check(choice("a"))
    assert leaving.cancelled()
    await refusal(checker, regex("(a"))


async def test_a_child_that_was_killed_is_started_again(checker: GrammarChecker) -> None:
    await checker.check(GOOD)
    child = checker._child
    assert child is not None
    child.kill()
    await child.wait()
    await checker.check(choice("a"))


async def test_no_grammar_pays_for_the_start_of_the_child(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grammar may not wait at all until the child is there."""
    start_child = checker._start_child

    async def start() -> asyncio.subprocess.Process:
        child = await start_child()
        monkeypatch.setattr("router.intake.grammar_checker.MAX_WAIT_S", WITHIN_S)
        return child

    monkeypatch.setattr("router.intake.grammar_checker.MAX_WAIT_S", 0.0)
    monkeypatch.setattr(checker, "_start_child", start)
    await checker.check(GOOD)


async def test_a_start_goes_on_for_the_next_one_when_its_caller_leaves(
    checker: GrammarChecker,
) -> None:
    leaving = asyncio.ensure_future(checker.check(GOOD))
    while checker._starting is None:
        await asyncio.sleep(0)
    begun = checker._starting
    leaving.cancel()
    await checker.check(choice("a"))
    assert leaving.cancelled()
    assert checker._starting is begun
    assert await begun is checker._child


async def test_a_child_that_does_not_get_ready_is_ended_and_started_again(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("router.intake.grammar_checker._MAX_START_S", 0.01)
        with pytest.raises(OverloadedError, match="too busy to start"):
            await checker.check(GOOD)
    await checker.check(GOOD)


async def test_a_machine_that_is_too_busy_is_no_fault_of_the_grammar(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child gets no processor time at all."""
    await checker.check(GOOD)
    assert checker._child is not None
    with monkeypatch.context() as patched:
        patched.setattr("router.intake.grammar_checker._MAX_COMPILE_S", 0.05)
        psutil.Process(checker._child.pid).suspend()
        with pytest.raises(OverloadedError, match="too busy to compile"):
            await checker.check(choice("b"))
    await checker.check(choice("b"))


async def test_a_tokenizer_that_is_not_fit_is_our_fault(tmp_path: Path) -> None:
    checker = GrammarChecker(tmp_path, [EOS], VOCAB)
    with pytest.raises(InternalError, match=r"tokenizer\.json"):
        await checker.check(GOOD)
    await checker.close()
