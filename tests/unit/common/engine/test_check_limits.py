import torch

from common.engine.check_limits import without_worst


def test_the_rows_that_differ_most_are_left_out_and_no_more() -> None:
    own = torch.ones(9, 4)
    ours = own.clone()
    ours[5], ours[2, 0], ours[7, 0] = 8.0, 3.0, 1.5
    kept, expected = without_worst(ours, own, 0.25)
    assert kept.shape == expected.shape == (7, 4)
    assert float((kept - expected).abs().max()) == 0.5
    assert torch.equal(*(x.sort(dim=0).values for x in (without_worst(ours, own, 0)[0], ours)))


def test_a_nan_is_never_left_out() -> None:
    own = torch.ones(9, 4)
    ours = own.clone()
    ours[3, 1] = float("nan")
    assert without_worst(ours, own, 0.25)[0].isnan().any()
