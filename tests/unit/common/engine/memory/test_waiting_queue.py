from common.engine.memory.waiting_queue import MAX_PASSES, WaitingQueue
from common.engine.sequence import Sequence
from tests.unit.common.engine.sequences import make_decoding, make_sequence


def at_most(num_tokens: int) -> "Fits":
    return Fits(num_tokens)


class Fits:
    """Admission of sequences that fit; remembers the ones it was asked about."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.asked: list[Sequence] = []

    def __call__(self, seq: Sequence) -> bool:
        self.asked.append(seq)
        return len(seq.token_ids) <= self.num_tokens


def queue_of(*prompts: int) -> tuple[WaitingQueue, list[Sequence]]:
    queue, sequences = WaitingQueue(), [make_sequence(n) for n in prompts]
    for seq in sequences:
        queue.append(seq)
    return queue, sequences


def test_the_first_that_fits_is_taken() -> None:
    queue, (large, small, other) = queue_of(9, 2, 2)
    assert queue.take(at_most(5)) is small
    assert list(queue) == [large, other]
    assert queue.take(at_most(20)) is large
    assert queue.take(at_most(1)) is None
    assert len(queue) == 1


def test_only_a_few_are_asked_behind_one_that_does_not_fit() -> None:
    queue, sequences = queue_of(9, 9, 9, 9, 2)
    fits = at_most(5)
    assert queue.take(fits) is None
    assert fits.asked == sequences[:4]


def test_after_so_many_passes_nobody_passes_any_more() -> None:
    queue, (large,) = queue_of(9)
    for _ in range(MAX_PASSES):
        queue.append(make_sequence(2))
        assert queue.take(at_most(5)) is not large
    queue.append(make_sequence(2))
    assert queue.take(at_most(5)) is None
    assert queue.take(at_most(9)) is large
    assert queue.take(at_most(5)) is not None


def test_nobody_passes_one_that_has_answered_already() -> None:
    queue, (small,) = queue_of(2)
    queue.push_front(make_decoding(8, 1))
    assert queue.take(at_most(5)) is None
    assert small in queue


def test_one_that_left_and_came_again_starts_young() -> None:
    queue, (large,) = queue_of(9)
    for _ in range(MAX_PASSES):
        queue.append(make_sequence(2))
        queue.take(at_most(5))
    queue.remove(large)
    queue.append(large)
    queue.append(make_sequence(2))
    assert queue.take(at_most(5)) is not None


def test_the_tokens_that_wait_are_counted_as_they_come_and_go() -> None:
    """A sequence that enters may find some of its prompt computed."""
    queue, (large, small, other) = queue_of(9, 2, 3)
    assert queue.num_tokens == 14

    def admit(seq: Sequence) -> bool:
        seq.num_computed_tokens = 5
        return True

    assert queue.take(admit) is large
    assert queue.num_tokens == 5
    queue.remove(other)
    assert (small in queue, other in queue, queue.num_tokens) == (True, False, 2)
    large.num_computed_tokens = 0
    queue.push_front(large)
    assert queue.num_tokens == 11
