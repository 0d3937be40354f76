from common.messages import WorkFailure
from pdserve.errors import Reason
from router.routing.prediction import Route
from router.workers.worker_use import WorkerUse

DIED = WorkFailure(Reason.WORKER_LOST, "gone", is_death=True)


def never(choice: int, failure: WorkFailure) -> None:
    raise AssertionError(choice)


def test_the_prefill_worker_is_needed_until_every_choice_has_its_first_token() -> None:
    worker_use = WorkerUse()
    held = worker_use.hold(Route("d", "p"), (0, 1), never)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (1, 1)
    for _ in range(2):
        held.note_first_token(0)
    assert worker_use.num_requests("p") == 1
    for _ in range(2):
        held.note_first_token(1)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (1, 0)
    for _ in range(2):
        held.release(1)
        assert worker_use.num_requests("d") == 1, "choice 0 goes on"
    for _ in range(2):
        held.release(0)
        assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (0, 0)


def test_an_end_before_the_first_token_frees_both() -> None:
    worker_use = WorkerUse()
    other = worker_use.hold(Route("d"), (0,), never)
    ended = worker_use.hold(Route("d", "p"), (1, 2), never)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (2, 1)
    ended.release(1)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (2, 1)
    ended.release(2)
    other.note_first_token(0)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (1, 0)
    other.release(0)
    assert worker_use.num_requests("d") == 0


def test_choices_without_a_token_learn_of_the_loss_of_their_prefill_worker() -> None:
    worker_use, told = WorkerUse(), list[tuple[int, bool]]()
    held = worker_use.hold(
        Route("d", "p"), (0, 1, 2), lambda choice, failure: told.append((choice, failure.is_death))
    )
    held.note_first_token(1)
    worker_use.lose_prefill("q", DIED)
    worker_use.lose_prefill("d", DIED)
    assert told == []
    worker_use.lose_prefill("p", DIED)
    assert sorted(told) == [(0, True), (2, True)]
    held.release(0)
    held.note_first_token(2)
    worker_use.lose_prefill("p", DIED)
    assert len(told) == 2
