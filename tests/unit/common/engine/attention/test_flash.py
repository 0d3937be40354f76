"""Arguments of the flash backend's call of torch's kernel."""

from functools import partial

import pytest
import torch
from structlog.testing import capture_logs

from common.engine.attention.flash import PAGE, FlashBackend
from common.engine.attention.form import SINKS, UnsupportedAttentionError
from common.engine.attention.select import select_backend
from pdserve.errors import SetupError
from tests.unit.common.engine.attention.paged import (
    Shape,
    Step,
    Turn,
    attend_dense,
    attend_with,
    make_cache,
)
from tests.unit.common.engine.attention.varlen_double import varlen

MIXED = [Turn(0, 40, 1), Turn(33, 1, 2), Turn(20, 13, 3), Turn(15, 1, 4)]
DECODE = [Turn(33, 1, 2), Turn(15, 1, 4), Turn(16, 1, 5), Turn(0, 1, 6)]


@pytest.mark.parametrize("window", [None, 1, 7, 64])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
@pytest.mark.parametrize("turns", [MIXED, DECODE], ids=["mixed", "decode"])
def test_a_batch_gives_what_the_formula_gives(
    turns: list[Turn], num_kv_heads: int, window: int | None
) -> None:
    shape = Shape(16, 32, num_heads=6, num_kv_heads=num_kv_heads)
    step = Step(window=window)
    outputs = attend_with(partial(FlashBackend, varlen=varlen), "pages", shape, turns, step)
    for turn, output in zip(turns, outputs, strict=True):
        expected = attend_dense(shape, turn, step)
        torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "shape",
    [Shape(PAGE, 64, 4, 2, "bfloat16"), Shape(16, 64, 4, 2, "bfloat16"), Shape(PAGE, 64, 4, 2)],
    ids=["right but for the device", "small blocks", "float32"],
)
def test_without_cuda_it_is_refused_with_what_there_is(shape: Shape) -> None:
    with pytest.raises(SetupError, match="'flash' is not available on cpu") as refusal:
        select_backend("flash", make_cache(shape, 2, 0.0), shape.num_heads)
    assert "reference" in str(refusal.value.remedy)


def test_a_model_with_extras_is_left_to_the_reference_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FlashBackend, "can_read", staticmethod(lambda cache: True))
    cache = make_cache(Shape(PAGE, 64, 4, 2, "bfloat16"), 2, 0.0, "pages")
    with capture_logs() as logs:
        assert select_backend("auto", cache, 4, (SINKS,)).name == "reference"
    reasons = [entry["reason"] for entry in logs if entry["event"] == "flash_left_out"]
    assert reasons == [SINKS]
    with pytest.raises(SetupError, match="'flash' does not honour attention sinks") as refusal:
        select_backend("flash", cache, 4, (SINKS,))
    assert refusal.value.remedy == "this machine has: reference"


def test_a_form_that_the_kernel_cannot_have_is_refused_by_name() -> None:
    shape = Shape(16, 32, num_heads=6, num_kv_heads=2)
    with pytest.raises(
        UnsupportedAttentionError, match=r"not honour a soft cap on scores \(layer 1\)"
    ):
        attend_with(partial(FlashBackend, varlen=varlen), "pages", shape, MIXED, Step(softcap=30.0))
