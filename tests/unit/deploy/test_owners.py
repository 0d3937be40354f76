from deploy.owners import OWNER_GONE_AFTER_S, Owners


def two() -> Owners:
    owners = Owners()
    owners.hear("first", 0.0)
    owners.hear("second", 1.0)
    return owners


def test_owners_know_of_each_other() -> None:
    assert (two().others("first", 1.0), two().others("third", 1.0)) == (1, 2)
    assert two().others("third", OWNER_GONE_AFTER_S + 0.5) == 1


def test_the_last_one_ends_the_deployment_and_nobody_else_does() -> None:
    owners = two()
    owners.leave("first")
    assert owners.must_end(2.0, 2.0) is None  # the other one was heard before
    owners.hear("second", 2.5)
    assert owners.must_end(2.0, 3.0) is False
    owners.leave("second")
    assert owners.must_end(4.0, 4.0) is True


def test_an_owner_that_was_killed_is_waited_for_and_then_forgotten() -> None:
    owners = two()
    owners.leave("first")
    assert owners.must_end(2.0, 1.0 + OWNER_GONE_AFTER_S) is None
    assert owners.must_end(2.0, 1.1 + OWNER_GONE_AFTER_S) is True


def test_of_two_that_leave_together_one_ends_the_deployment() -> None:
    owners = two()
    owners.leave("first")
    owners.leave("second")
    assert [owners.must_end(2.0, 2.0), owners.must_end(2.0, 2.0)] == [True, False]
