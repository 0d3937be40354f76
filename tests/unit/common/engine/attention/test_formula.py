"""Attention by its formula gives the same results, however few queries it takes at a time."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.engine.attention.form import AttentionForm
from common.engine.attention.formula import attend_by_formula

HEADS, KV_HEADS, CONTEXT, NEW = 6, 2, 150, 37
BYTES_OF_A_QUERY = HEADS * CONTEXT * 4


class Largest(TorchDispatchMode):  # type: ignore[misc]
    """Watcher of the largest tensor that an operation gives."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.num_bytes = max(self.num_bytes, result.nbytes)
        return result


def operands(new: int, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a query [new, heads, 16], keys [kv_heads, context, 16] and values [kv_heads, context, 8]."""
    draw = torch.Generator().manual_seed(0)
    shapes = (new, HEADS, 16), (KV_HEADS, context, 16), (KV_HEADS, context, 8)
    query, key, value = (torch.randn(shape, generator=draw) for shape in shapes)
    return query, key, value


def form(**changes: int) -> AttentionForm:
    numbers = torch.linspace(0.1, 2, HEADS)
    return AttentionForm(0.5, softcap=3.0, sinks=numbers, slopes=numbers, **changes)


@pytest.mark.parametrize("num_queries", [0, 1, 5, 36, 37])
@pytest.mark.parametrize("changes", [{}, {"window": 20}, {"chunk": 32}])
def test_runs_of_any_length_give_what_one_run_gives(
    num_queries: int, changes: dict[str, int]
) -> None:
    asked = (*operands(NEW, CONTEXT), form(**changes))
    parts = attend_by_formula(*asked, max_score_bytes=num_queries * BYTES_OF_A_QUERY)
    # not torch.equal: a product of fewer rows may add in another order
    torch.testing.assert_close(parts, attend_by_formula(*asked), atol=1e-6, rtol=1e-5)


def test_no_tensor_is_much_larger_than_the_bound() -> None:
    new = context = 300
    asked = (*operands(new, context), form())
    bound = 2**18
    assert HEADS * new * context * 4 > 4 * bound
    with Largest() as watched:
        attend_by_formula(*asked, max_score_bytes=bound)
    # the column of the sinks is no part of the scores
    assert bound // 2 < watched.num_bytes <= bound * (context + 1) / context
