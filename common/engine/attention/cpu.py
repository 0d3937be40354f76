"""Fast CPU backend: kernels over packed blocks, in the model's dtype or int8, arithmetic in float32."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from common.engine.attention.form import AttentionForm
from common.engine.attention.split_steps import SplitSteps
from common.engine.attention.step_arrays import DecodeArrays, is_decode, step_arrays
from common.engine.cpu.arrays import Array, as_array
from common.engine.cpu.attention_kernel import (
    Kernel,
    attention_kernel,
    can_compile_kernel,
    shape_of,
)
from common.engine.cpu.attention_tiles import Shape
from common.engine.cpu.kv_quantize import QuantizedStore
from common.engine.cpu.kv_store import KVStore
from common.engine.cpu.recorder import Recorder
from common.engine.cpu.split_attention import split_kernel
from common.engine.cpu.threads import get_num_threads, limit_numba
from common.engine.device_inputs import StepTensors
from common.engine.memory.kv_cache import KVCache
from common.engine.ragged import RaggedInputs
from common.kv_transfer.layout import KVShape, LatentShape

_UNLIMITED = 1 << 40  # a window wider than any context
_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Kernels of one form: for any step, and for decode steps that are split."""

    any: Kernel
    split: Kernel

    @staticmethod
    def of(shape: Shape, storage: str) -> "_Kernels":
        """Compile or load both, for queries of a numpy dtype."""
        return _Kernels(attention_kernel(shape, storage), split_kernel(shape, storage))


@dataclass(frozen=True, slots=True)
class _Layer:
    """Memory of one layer's blocks, their writer, which knows the layer by `place`, and their kernels."""

    keys: Array
    values: Array
    store: KVStore | QuantizedStore
    place: int
    shape: Shape
    kernels: _Kernels
    make_extended: Callable[[], _Kernels]  # for forms that are not plain


class CpuBackend:
    """Attention over packed blocks in host memory (see `can_read`); both worker roles use it.

    `recorder` makes the calls of `attend`. Those of a decode step can be repeated by the
    next ones of as many tokens, after their `begin` (step_arrays.py), that are split alike.
    """

    name = "cpu"

    def __init__(self, cache: KVCache, num_heads: int) -> None:
        self.recorder = Recorder()
        self.kv_shapes, self.kv_places = cache.shapes, cache.places
        self._block_size, self.max_context_tokens = cache.block_size, cache.max_context_tokens
        self._layers = _find_layers(cache, num_heads)
        self._out: torch.Tensor | None = None
        self._num_threads = get_num_threads()
        self._kept = DecodeArrays(cache.keys.shape[1])
        positions = min(cache.max_context_tokens, cache.keys.shape[1] * cache.block_size)
        shapes = [layer.shape for layer in self._layers]
        self._split_steps = SplitSteps(shapes, num_heads, positions, self._num_threads)
        self.is_split = False

    @staticmethod
    def can_read(cache: KVCache) -> bool:
        """Return True if the kernel's vectors tile this cache's blocks."""
        is_known = cache.storage == "packed" and cache.kv_dtype != "fp8"
        return is_known and all(
            can_compile_kernel(cache.block_size, dim) for _, *dims in cache.shapes for dim in dims
        )

    def begin(self, step: StepTensors) -> None:
        """Implement AttentionBackend.begin."""
        self.begin_on_host(step.host)

    def begin_on_host(self, inputs: RaggedInputs) -> None:
        """Lay out the arrays that kernels read: where keys and values go, and their work items."""
        limit_numba(self._num_threads)  # steps run in another thread than the constructor
        if is_decode(inputs):
            self._arrays = self._kept.fill(inputs, self._num_threads)
            self.is_split = self._split_steps.pays(inputs.context_len[self._arrays.items[:, 0]])
        else:
            self.is_split = False
            self._arrays = step_arrays(inputs, self._block_size, self._num_threads)
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
        query, key, value = (
            x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value)
        )
        own, arrays = self._layers[layer], self._arrays
        own.store.put(self.recorder.call, own.place, key, value, arrays.slots)
        out = self._reserve_out((*query.shape[:2], value.shape[2]), query.dtype)
        tensors = as_array(query), own.keys, own.values, as_array(out)
        kernels = own.kernels if form.is_plain else own.make_extended()
        extras = () if form.is_plain else _extras(form)
        numbers = np.float32(form.scale), form.window or _UNLIMITED, *extras
        if self.is_split:
            layout = arrays.block_tables, arrays.context_len, *self._split_steps.memory
            self.recorder.call(kernels.split, *tensors, *layout, self._num_threads, *numbers)
        else:
            self.recorder.call(kernels.any, *tensors, *arrays.of_items(sampled_only), *numbers)
        return out

    def _reserve_out(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        # one for all layers of a step: a layer has used its output before the next one attends
        if self._out is None or self._out.shape != shape:
            self._out = torch.empty(shape, dtype=dtype)
        return self._out


def _find_layers(cache: KVCache, num_heads: int) -> list[_Layer]:
    make_store: type[KVStore] | type[QuantizedStore]
    make_store = QuantizedStore if cache.is_quantized else KVStore
    stores: dict[KVShape, KVStore | QuantizedStore] = {}
    storage_name = as_array(torch.empty(0, dtype=cache.dtype)).dtype.name
    layers = []
    for layer, shape in enumerate(cache.shapes):
        storage, place = cache.place_of(layer)
        if shape not in stores:
            stores[shape] = make_store(storage.keys, storage.values)
        keys, values = as_array(storage.keys[place]), as_array(storage.values[place])
        if cache.is_quantized:
            keys, values = keys.view(np.int8), values.view(np.int8)
        group = num_heads // shape.num_kv_heads
        block = cache.block_size, (shape.key_dim, shape.value_dim), group, keys.dtype.name
        is_latent = isinstance(cache.stored_shapes[layer], LatentShape)
        plain = shape_of(*block, is_latent=is_latent)
        kernels = _Kernels.of(plain, storage_name)
        make_extended = partial(_Kernels.of, plain._replace(has_extras=True), storage_name)
        own = keys, values, stores[shape], place, plain
        layers.append(_Layer(*own, kernels, make_extended))
    return layers


def _extras(form: AttentionForm) -> tuple[object, ...]:
    """Return the last arguments of a kernel with extras: chunk, cap, sinks, slopes."""
    rows = (_NOTHING if x is None else as_array(x) for x in (form.sinks, form.slopes))
    return form.chunk or _UNLIMITED, np.float32(form.softcap or 0), *rows
