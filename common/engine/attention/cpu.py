"""Fast CPU backend: kernels over packed blocks in the model's dtype, arithmetic in float32."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from common.engine.attention.form import AttentionForm
from common.engine.cpu.arrays import as_array
from common.engine.cpu.attention_kernel import QUERY_TILE, attention_kernel, can_compile_kernel
from common.engine.cpu.kv_store import KVStore, find_runs
from common.engine.cpu.threads import get_num_threads, limit_numba
from common.engine.device_inputs import StepTensors
from common.engine.memory.kv_cache import KVCache
from common.engine.ragged import RaggedInputs

_UNLIMITED = 1 << 40  # a window wider than any context
_NOTHING = np.empty(0, np.float32)


class CpuBackend:
    """Attention over packed blocks in host memory (see `can_read`); both worker roles use it."""

    name = "cpu"

    def __init__(self, cache: KVCache, num_heads: int) -> None:
        self.kv_shape = (cache.num_kv_heads, cache.head_dim)
        self._keys, self._values = as_array(cache.keys), as_array(cache.values)
        self._block_size = cache.block_size
        group, storage = num_heads // cache.num_kv_heads, self._keys.dtype.name
        shape = (cache.block_size, cache.head_dim, group, storage)
        self._kernel = attention_kernel(*shape)
        self._make_extended = partial(attention_kernel, *shape, has_extras=True)
        self._store = KVStore(cache.keys, cache.values)
        self._out: torch.Tensor | None = None
        self._num_threads = get_num_threads()

    @staticmethod
    def can_read(cache: KVCache) -> bool:
        """Return True if the kernel's vectors tile this cache's blocks."""
        return cache.storage == "packed" and can_compile_kernel(cache.block_size, cache.head_dim)

    def begin(self, step: StepTensors) -> None:
        """Cut every sequence's queries into tiles, the kernel's work items."""
        self._inputs = inputs = step.host
        limit_numba(self._num_threads)  # steps run in another thread than the constructor
        self._items = _work_items(inputs, self._num_threads)
        self._runs = find_runs(inputs.slot_mapping, self._block_size)
        self._sampled_items = _sampled(self._items, inputs)
        self._out = None

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        form: AttentionForm,
        sampled_only: bool = False,
    ) -> torch.Tensor:
        """Implement AttentionBackend.attend."""
        inputs = self._inputs
        keys, values = self._keys[layer], self._values[layer]
        query, key, value = (
            x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value)
        )
        self._store.store(layer, key, value, inputs.slot_mapping, self._runs)
        out = self._reserve_out(query)
        kernel = self._kernel if form.is_plain else self._make_extended()
        kernel(
            as_array(query),
            keys,
            values,
            as_array(out),
            inputs.block_tables,
            inputs.query_start,
            inputs.context_len,
            self._sampled_items if sampled_only else self._items,
            np.float32(form.scale),
            form.window or _UNLIMITED,
            *(() if form.is_plain else _extras(form)),
        )
        return out

    def _reserve_out(self, query: torch.Tensor) -> torch.Tensor:
        # one for all layers of a step: a layer has used its output before the next one attends
        if self._out is None or self._out.shape != query.shape:
            self._out = torch.empty(query.shape, dtype=query.dtype)
        return self._out


def _extras(form: AttentionForm) -> tuple[object, ...]:
    """Return the last arguments of a kernel with extras: chunk, cap, sinks, slopes."""
    rows = (_NOTHING if x is None else as_array(x) for x in (form.sinks, form.slopes))
    return form.chunk or _UNLIMITED, np.float32(form.softcap or 0), *rows


def _work_items(inputs: RaggedInputs, num_threads: int) -> NDArray[np.int32]:
    """Return [n, 3]: sequence, first and end query of tiles, so that every thread has a like share.

    numba gives each thread one run of consecutive items, so the costliest items are dealt out in turn.
    """
    counts = np.diff(inputs.query_start)
    tiles = -(-counts // QUERY_TILE)
    seq = np.repeat(np.arange(len(counts), dtype=np.int32), tiles)
    within = np.arange(len(seq)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    first = within * QUERY_TILE
    end = np.minimum(first + QUERY_TILE, counts[seq])
    items = np.stack((seq, first, end), axis=1).astype(np.int32)
    cost = (inputs.context_len[seq] - counts[seq] + end) * (end - first)
    order = np.argsort(-cost, kind="stable")
    dealt: NDArray[np.int32] = items[
        np.concatenate([order[i::num_threads] for i in range(num_threads)])
    ]
    return dealt


def _sampled(items: NDArray[np.int32], inputs: RaggedInputs) -> NDArray[np.int32]:
    """Return the items with a query that samples."""
    if len(inputs.sample_rows) == len(inputs.input_ids):
        return items
    origin, rows = inputs.query_start[items[:, 0]], np.sort(inputs.sample_rows)
    before, behind = (rows.searchsorted(origin + items[:, column]) for column in (1, 2))
    return items[before < behind]
