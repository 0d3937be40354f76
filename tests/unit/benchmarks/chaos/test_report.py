import json
import random

import pytest
from ray.core.generated import common_pb2

from benchmarks.chaos.asking import Asking, Choice
from benchmarks.chaos.questions import KINDS, Question, Sizes, draw_questions
from benchmarks.chaos.report import (
    UNTOUCHED,
    Remains,
    Report,
    Run,
    first_difference,
    make_report,
    percentile,
)
from benchmarks.chaos.store import StoreUse, describe
from benchmarks.chaos.table import BEGIN, END, FIGURES, PAGE, render, update
from pdserve.v1 import admin_pb2, inference_pb2

CLEAN = Remains(blocks=0, objects=0, requests=0, spilled_bytes=0, adds_up=True)
KILL, STOP = "decode worker killed", "decode worker stopped for 1 to 7 s"
QUESTION = Question("greedy", "a river", inference_pb2.SamplingParams())
WHOLE = (Choice("abc", (1, 2, 3), "length", (-0.5, -1.5, -2.5)),)


def asked(text: str, *tokens: int, ends: bool = True, logprob: float = -0.5) -> Asking:
    """Return a question that was answered with these tokens, all of them in one message."""
    asking = Asking(QUESTION, "r")
    logprobs = [
        inference_pb2.TokenLogprobs(logprob=logprob - place) for place in range(len(tokens))
    ]
    reason = inference_pb2.FINISH_REASON_LENGTH
    asking._add(
        inference_pb2.GenerateResponse(
            text=text,
            token_ids=tokens,
            logprobs=logprobs,
            finished=inference_pb2.Finished(reason=reason) if ends else None,
        )
    )
    return asking


def test_only_the_same_text_tokens_end_and_logprobs_agree() -> None:
    assert asked("abc", 1, 2, 3).agrees_with(WHOLE)
    assert asked("abc", 1, 2, 3, logprob=-0.5004).agrees_with(WHOLE)
    for other in (
        asked("abd", 1, 2, 3),
        asked("abc", 1, 2, 4),
        asked("abc", 1, 2, 3, ends=False),
        asked("ab", 1, 2),
        asked("abc", 1, 2, 3, logprob=-0.6),
        Asking(QUESTION, "empty"),
    ):
        assert not other.agrees_with(WHOLE)


def test_of_a_cancelled_answer_the_beginning_counts() -> None:
    for asking, agrees in (
        (asked("ab", 1, 2, ends=False), True),
        (Asking(QUESTION, "empty"), True),
        (asked("ax", 1, 2, ends=False), False),
        (asked("ab", 1, 9, ends=False), False),
    ):
        asking.is_cancelled = True
        assert asking.agrees_with(WHOLE) is agrees


def test_a_token_that_is_missing_or_doubled_is_an_error() -> None:
    asking = asked("abc", 1, 2, 3, ends=False)
    asking._add(inference_pb2.GenerateResponse(text="e", token_ids=[5], index=4))
    assert asking.error == "token 3 was to come, and 4 came"
    assert not asking.agrees_with(WHOLE)


def report_of(*askings: Asking, remains: Remains = CLEAN, processes_left: int = 0) -> Report:
    runs = [Run(KILL, 10.0), Run(STOP, 2.0), Run(KILL, 12.0)]
    return make_report(runs, askings, {QUESTION: WHOLE}, remains, processes_left)


def test_each_fault_has_what_it_met() -> None:
    met, twice, untouched = (asked("abc", 1, 2, 3) for _ in range(3))
    for asking, at_s in ((met, 1.0), (twice, 3.0)):
        asking.times_s, asking.struck = [0.5, at_s + 0.25], {KILL: at_s}
    twice.struck[STOP] = 99.0  # nothing came afterwards
    report = report_of(met, twice, untouched)
    rows = {row.fault: row for row in report.rows}
    assert list(rows) == [KILL, STOP, UNTOUCHED]
    kill, stop = rows[KILL], rows[STOP]
    assert (kill.runs, kill.requests, kill.identical) == (2, 2, 2)
    assert (kill.gap_p50_s, kill.recovery_p50_s, kill.recovery_max_s) == (0.25, 11.0, 12.0)
    assert (stop.requests, stop.gap_p50_s) == (1, None)
    assert rows[UNTOUCHED].requests == 1
    assert report.is_clean


def test_a_wrong_text_or_anything_left_is_not_clean() -> None:
    right, wrong = asked("abc", 1, 2, 3), asked("abd", 1, 2, 4)
    wrong.struck = {KILL: 1.0}
    report = report_of(right, wrong)
    assert (report.requests, report.identical, report.is_clean) == (2, 1, False)
    assert report.errors == [f"r (greedy; met {KILL}): choice 0 differs from token 2 of 3 on"]
    assert not report_of(right, processes_left=1).is_clean
    for blocks, objects, requests, adds_up in (
        (1, 0, 0, True),
        (0, 1, 0, True),
        (0, 0, 1, True),
        (0, 0, 0, False),
    ):
        assert not report_of(right, remains=Remains(blocks, objects, requests, 0, adds_up)).is_clean


def test_objects_that_are_left_are_told_with_who_holds_them() -> None:
    ref = common_pb2.ObjectRefInfo(
        object_id=b"\x0a\x0b", object_size=2**20, local_ref_count=2, pinned_in_memory=True
    )
    told = "0a0b of 1048576 bytes, at process 7: in use, 2 in Python"
    assert describe(7, ref) == told
    ref = common_pb2.ObjectRefInfo(object_id=b"\x0a", call_site="x.py:3")
    assert describe(7, ref) == "0a of 0 bytes, at process 7: none that counts, made at x.py:3"
    before, used = StoreUse(3, 1, 0, ("an earlier one",)), 2**20
    for after, objects, evictable, words in (
        (StoreUse(3, 1, used, ("an earlier one",)), 0, 0, []),
        (StoreUse(5, 1, used, ("an earlier one",)), 0, 2, []),
        (StoreUse(6, 3, used, (told,)), 2, 1, [f"an object is left: {told}"]),
        (StoreUse(4, 2, used, ()), 1, 0, ["the store keeps an object to which no process has a "]),
    ):
        remains = Remains.of([admin_pb2.StatusResponse()], [], before, after)
        assert (remains.objects, remains.evictable) == (objects, evictable)
        assert remains.spilled_bytes == used
        assert len(remains.told()) == len(words)
        assert all(one.startswith(start) for one, start in zip(remains.told(), words, strict=True))


def test_a_difference_is_told_by_its_place() -> None:
    (text,) = asked("abd", 1, 2, 3).answer()
    assert first_difference((text,), WHOLE).startswith("choice 0 has the same tokens, but another")
    assert first_difference((*WHOLE, text), WHOLE) == "choices are missing"


def test_a_percentile_is_a_value_of_the_list() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([*map(float, range(200))], 0.99) == 198.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_seed_draws_the_same_questions_of_every_kind() -> None:
    first, second = (draw_questions(random.Random(3), 2, Sizes()) for _ in range(2))
    assert [one.prompt for one in first] == [one.prompt for one in second]
    assert sorted(one.kind for one in first) == sorted([*KINDS, *KINDS])
    assert {len(one.sampling.structured_output.json_schema) > 0 for one in first} == {True, False}


def test_the_page_has_the_table_of_the_committed_figures() -> None:
    page = PAGE.read_text("utf-8")
    assert update(page, render(json.loads(FIGURES.read_text("utf-8")))) == page


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    assert update(f"a\n{BEGIN}old\n{END}b\n", "new\n") == f"a\n{BEGIN}new\n{END}b\n"
    with pytest.raises(ValueError, match="no <!--"):
        update("nothing\n", "new\n")
