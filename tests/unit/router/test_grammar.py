"""The child process that tries grammars out: refusals within 2 s, whatever they do to it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from common.request import Grammar
from pdserve.errors import InternalError, InvalidRequestError, OverloadedError, Reason
from router.grammar import GrammarChecker
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
async def checker(model_dir: Path) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker(model_dir, [EOS], VOCAB)
    before = set(psutil.Process().children())
    yield checker
    await checker.close()
    left = [child for child in psutil.Process().children() if child not in before]
    assert not left


async def refusal(checker: GrammarChecker, grammar: Grammar) -> InvalidRequestError:
    start_s = time.monotonic()
    with pytest.raises(InvalidRequestError) as caught:
        await checker.check(grammar)
    assert time.monotonic() - start_s < 2.0
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
    monkeypatch.setattr("router.grammar._MAX_REMEMBERED", 3)
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


async def test_nobody_waits_longer_than_two_seconds(checker: GrammarChecker) -> None:
    """A crowd of slow ones: the first are refused, those that nobody could look at are told to come back."""
    await checker.check(GOOD)
    start_s = time.monotonic()
    results = await asyncio.gather(
        *(checker.check(slow(number)) for number in range(20)), return_exceptions=True
    )
    assert time.monotonic() - start_s < 2.0
    kinds = {type(result) for result in results}
    assert kinds == {InvalidRequestError, OverloadedError}
    await checker.check(GOOD)


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
    """It takes longer than a grammar may wait here."""
    monkeypatch.setattr("router.grammar.MAX_WAIT_S", 0.15)
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
        patched.setattr("router.grammar._MAX_START_S", 0.01)
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
        patched.setattr("router.grammar._MAX_COMPILE_S", 0.05)
        psutil.Process(checker._child.pid).suspend()
        with pytest.raises(OverloadedError, match="too busy to compile"):
            await checker.check(choice("b"))
    await checker.check(choice("b"))


async def test_a_tokenizer_that_is_not_fit_is_our_fault(tmp_path: Path) -> None:
    checker = GrammarChecker(tmp_path, [EOS], VOCAB)
    with pytest.raises(InternalError, match=r"tokenizer\.json"):
        await checker.check(GOOD)
    await checker.close()
