"""Watch of a cluster's head: how long it may be silent, and who may come back."""

from deploy.head_watch import MAX_SILENT, HeadWatch


async def look(*answers: bytes | None) -> list[str]:
    """Return what each look at a head with these answers says."""
    left = [*answers]
    watch = HeadWatch(lambda: left.pop(0))
    return [await watch.look() for _ in answers]


async def test_a_head_may_be_away_for_some_questions() -> None:
    away = [None] * (MAX_SILENT - 1)
    assert not any(await look(b"id", *away, b"id", *away, b"id"))


async def test_one_that_stays_away_is_lost() -> None:
    *before, last = await look(b"id", *[None] * MAX_SILENT)
    assert (any(before), last) == (False, "did not answer 10 times")


async def test_one_that_knows_nothing_any_more_is_lost_at_once() -> None:
    before, first, last = await look(b"id", None, b"another")
    assert (before, first, last) == ("", "", "was started anew without what it knew")


async def test_one_that_never_answered_is_not_missed() -> None:
    assert not any(await look(*[None] * (3 * MAX_SILENT)))
