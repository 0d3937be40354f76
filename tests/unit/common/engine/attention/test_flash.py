"""What the flash backend asks of torch's kernel, with the kernel's contract written out in plain torch."""

from functools import partial

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from common.engine.attention.flash import PAGE, FlashBackend
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

MIXED = [Turn(0, 40, 1), Turn(33, 1, 2), Turn(20, 13, 3), Turn(15, 1, 4)]


def varlen(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    key_starts: None,
    most_queries: int,
    most_keys: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int,
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as its documentation has it, over pages."""
    assert (key_starts, num_splits) == (None, 1)
    assert {tensor.dtype for tensor in (starts, seqused_k, block_table)} == {torch.int32}
    outputs = []
    for row, used in enumerate(seqused_k.tolist()):
        part = query[starts[row] : starts[row + 1]]
        assert len(part) <= most_queries
        assert used <= most_keys
        k, v = (pages[block_table[row].long()].flatten(0, 1)[:used] for pages in (keys, values))
        # the last query sees the last key; a window of -1 is none
        distance = torch.arange(used - len(part), used)[:, None] - torch.arange(used)[None, :]
        left = window_size[0] if window_size[0] >= 0 else used
        mask = (distance <= left) & (distance >= -window_size[1])
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (part, k, v))
        out = scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 1, 7, 64])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_a_mixed_batch_gives_what_the_formula_gives(num_kv_heads: int, window: int | None) -> None:
    shape = Shape(16, 32, num_heads=6, num_kv_heads=num_kv_heads)
    step = Step(window=window)
    outputs = attend_with(partial(FlashBackend, varlen=varlen), "pages", shape, MIXED, step)
    for turn, output in zip(MIXED, outputs, strict=True):
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
