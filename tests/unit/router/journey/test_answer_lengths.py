from common.messages import SamplingParams
from router.intake.job import Job
from router.journey.answer_lengths import AnswerLengths


def job(max_tokens: int, stop: tuple[str, ...] = (), **sampling: object) -> Job:
    return Job("r", (1,), SamplingParams(0.0, 0, max_tokens, **sampling), stop)  # type: ignore[arg-type]


def test_at_least_what_nine_in_ten_of_the_latest_have_had() -> None:
    lengths = AnswerLengths()
    for number in range(15):
        lengths.note(100 + number)
    assert lengths.least(job(1000)) == 1, "so few say nothing"
    for number in range(15, 64):
        lengths.note(100 + number)
    assert lengths.least(job(1000)) == 106
    assert lengths.least(job(50)) == 50
    assert lengths.least(job(1000, min_tokens=300)) == 300
    for _ in range(64):
        lengths.note(7)
    assert lengths.least(job(1000)) == 7


def test_what_nothing_can_end_is_as_long_as_was_asked_for() -> None:
    lengths = AnswerLengths()
    assert lengths.least(job(1000, ignore_eos=True)) == 1000
    assert lengths.least(job(1000, ("\n",), ignore_eos=True)) == 1
    assert lengths.least(job(1000, ignore_eos=True, stop_token_ids=(5,))) == 1
