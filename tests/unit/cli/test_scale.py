import pytest

from cli.scale import Step


@pytest.mark.parametrize(
    ("step", "now", "wanted"),
    [
        (Step(1, 0, 4), 2, 3),
        (Step(3, 0, 4), 2, 4),
        (Step(1, 0, 4), 4, 4),
        (Step(1, 0, 4), 6, 6),
        (Step(-1, 1, 4), 2, 1),
        (Step(-2, 1, 4), 2, 1),
        (Step(-1, 2, 4), 1, 1),
    ],
)
def test_a_step_ends_at_its_limits_and_undoes_nothing(step: Step, now: int, wanted: int) -> None:
    assert step.target(now) == wanted
