import pytest

from common.engine.stages import Stage, StageClock, Stages, untold


def test_a_stage_is_shown_while_it_runs_and_told_with_its_remark_after() -> None:
    clock = StageClock()
    assert clock.so_far() == Stages()
    with clock.stage("compiling kernels") as remark:
        during = clock.so_far()
        remark.text = "24 new, 0 from disk"
    assert (during.done, during.running) == ((), "compiling kernels")
    with clock.stage("measuring the profile"):
        pass
    after = clock.so_far()
    assert [(stage.name, stage.remark) for stage in after.done] == [
        ("compiling kernels", "24 new, 0 from disk"),
        ("measuring the profile", ""),
    ]
    assert (after.running, after.age_s) == ("", 0.0)
    assert 0 <= during.age_s <= after.done[0].seconds


def test_a_stage_that_fails_stays_the_one_that_ran() -> None:
    clock = StageClock()
    with pytest.raises(ValueError, match="no weights"), clock.stage("loading weights"):
        raise ValueError("no weights")
    assert (clock.so_far().done, clock.so_far().running) == ((), "loading weights")


def test_a_stage_reads_as_a_line() -> None:
    assert str(Stage("loading weights", 1.94)) == "loading weights took 1.9 s"
    line = str(Stage("compiling kernels", 12.3, "24 new, 0 from disk"))
    assert line == "compiling kernels took 12.3 s (24 new, 0 from disk)"


def test_who_wants_no_times_may_still_remark() -> None:
    with untold("loading weights") as remark:
        remark.text = "read by nobody"
