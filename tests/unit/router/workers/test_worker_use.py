from router.routing.prediction import Route
from router.workers.worker_use import WorkerUse


def test_the_prefill_worker_is_needed_until_every_choice_has_its_first_token() -> None:
    worker_use = WorkerUse()
    held = worker_use.hold(Route("d", "p"), (0, 1))
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
    other = worker_use.hold(Route("d"), (0,))
    ended = worker_use.hold(Route("d", "p"), (1, 2))
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (2, 1)
    ended.release(1)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (2, 1)
    ended.release(2)
    other.note_first_token(0)
    assert (worker_use.num_requests("d"), worker_use.num_requests("p")) == (1, 0)
    other.release(0)
    assert worker_use.num_requests("d") == 0
