"""torch's `varlen_attn` as its documentation has it, over pages, in plain torch: runs anywhere."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def varlen(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    starts: torch.Tensor,
    key_starts: torch.Tensor,
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
    """Run as one operation for a recorder of operations, like the kernel."""
    assert num_splits == 1
    assert key_starts.shape == starts.shape, "FlashAttention 2 asks for both or for none"
    numbers = (starts, key_starts, seqused_k, block_table)
    assert {tensor.dtype for tensor in numbers} == {torch.int32}
    assert enable_gqa == (query.shape[1] != keys.shape[2])
    most, tables = [most_queries, most_keys], [starts, seqused_k, block_table]
    output: torch.Tensor = _attend_once(
        [query, keys, values], tables, most, scale, list(window_size)
    )
    return output


def _attend(
    qkv: list[torch.Tensor],
    tables: list[torch.Tensor],
    most: list[int],
    scale: float,
    window: list[int],
) -> torch.Tensor:
    query, keys, values = qkv
    starts, contexts, block_table = tables
    left, right = (side if side >= 0 else most[1] for side in window)
    outputs = []
    for row, used in enumerate(contexts.tolist()):
        part = query[int(starts[row]) : int(starts[row + 1])]
        assert len(part) <= most[0]
        assert used <= most[1]
        blocks = block_table[row, : -(-used // keys.shape[1])].long()
        k, v = (pages[blocks].flatten(0, 1)[:used] for pages in (keys, values))
        # the last query sees the last key
        distance = torch.arange(used - len(part), used)[:, None] - torch.arange(used)[None, :]
        mask = (distance <= left) & (distance >= -right)
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (part, k, v))
        out = scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


_attend_once = torch.library.custom_op("pdserve_test::varlen", _attend, mutates_args=())
