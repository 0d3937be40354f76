from contextlib import suppress

from router.routing.prediction import Route
from router.workers.worker_use import Bookings


def test_the_prefill_worker_is_needed_until_every_choice_has_its_first_token() -> None:
    bookings = Bookings()
    with bookings.book(Route("d", "p"), num_choices=2) as booking:
        assert (bookings.num_requests("d"), bookings.num_requests("p")) == (1, 1)
        for _ in range(2):
            booking.note_token(0)
        assert bookings.num_requests("p") == 1
        for _ in range(2):
            booking.note_token(1)
        assert (bookings.num_requests("d"), bookings.num_requests("p")) == (1, 0)
    assert (bookings.num_requests("d"), bookings.num_requests("p")) == (0, 0)


def test_an_end_before_the_first_token_frees_both() -> None:
    bookings = Bookings()
    with bookings.book(Route("d"), 1) as other:
        with suppress(LookupError), bookings.book(Route("d", "p"), 3):
            assert (bookings.num_requests("d"), bookings.num_requests("p")) == (2, 1)
            raise LookupError
        other.note_token(0)
        assert (bookings.num_requests("d"), bookings.num_requests("p")) == (1, 0)
    assert bookings.num_requests("d") == 0
