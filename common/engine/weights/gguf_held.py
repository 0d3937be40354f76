"""Loading of a GGUF file whose weights stay as they are: blocks in the mapped file, until panels are made."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from common.engine.attention.interface import our_name
from common.engine.fused.held import HeldEmbedding, HeldLinear
from common.engine.weights.gguf_blocks import BLOCK_TYPES, GgufWeight
from common.engine.weights.gguf_index import FileTensor, GgufIndex, part_files
from pdserve.errors import SetupError

_Part = np.memmap[tuple[int], np.dtype[np.uint8]]
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_held(
    path: Path, index: GgufIndex, config: PreTrainedConfig, dtype: torch.dtype
) -> nn.Module:
    """Load a model with our attention on the CPU; quantized weights are held, others are of `dtype`.

    A held weight's blocks are pages of the file until the fusion pass has read them. Raises SetupError,
    naming the tensor, for weights that are not exactly the model's.
    """
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=our_name(config.model_type)
        )
    loader = _Loader(model, dtype, [_mapped(file) for file in part_files(path, index.num_parts)])
    for name, tensor in index.tensors.items():
        loader.put(name, tensor)
    loader.tie(config)
    if lacking := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise SetupError(f"{path} lacks the tensor {lacking[0]}", "Start with the GGUF file again")
    loaded: nn.Module = model
    return loaded


class _Loader:
    def __init__(self, model: Any, dtype: torch.dtype, parts: list[_Part]) -> None:
        self._model = model
        self._dtype = dtype
        self._parts = parts

    def put(self, name: str, tensor: FileTensor) -> None:
        """Put one tensor of the file into its place in the model."""
        owner_name, _, leaf = name.rpartition(".")
        owner = self._model.get_submodule(owner_name)
        wanted = getattr(owner, leaf).shape
        if tuple(wanted) != tensor.shape:
            raise SetupError(
                f"{name} has the shape {list(tensor.shape)}, config.json asks for {list(wanted)}",
                "Start with the GGUF file again",
            )
        if tensor.kind in BLOCK_TYPES:
            self._model.set_submodule(owner_name, self._held(owner, tensor))
        else:
            owner._parameters[leaf] = nn.Parameter(self._plain(tensor))

    def tie(self, config: PreTrainedConfig) -> None:
        """Make the head the embedding again where the two are one."""
        if not config.tie_word_embeddings:
            return
        model, embedding = self._model, self._model.get_input_embeddings()
        if isinstance(embedding, HeldEmbedding):
            model.lm_head = HeldLinear(embedding.held, None)
        else:
            model.lm_head.weight = embedding.weight

    def _held(self, owner: Any, tensor: FileTensor) -> nn.Module:
        """Return the module that takes the place of `owner`."""
        num_rows, num_columns = tensor.shape
        row_bytes = BLOCK_TYPES[tensor.kind].row_bytes(num_columns)
        blocks = self._bytes(tensor, num_rows * row_bytes).view(num_rows, row_bytes)
        order = _model_order(num_rows, tensor.num_heads) if tensor.num_heads else None
        held = GgufWeight(blocks, tensor.kind, num_columns, order)
        if isinstance(owner, nn.Embedding):
            return HeldEmbedding(held, self._dtype, getattr(owner, "embed_scale", None))
        return HeldLinear(held, owner.bias)

    def _plain(self, tensor: FileTensor) -> torch.Tensor:
        stored = _PLAIN[tensor.kind]
        count = int(np.prod(tensor.shape)) * stored.itemsize
        numbers = self._bytes(tensor, count).view(stored).view(tensor.shape)
        if tensor.num_heads:
            numbers = numbers[_model_order(len(numbers), tensor.num_heads)]
        if tensor.added:
            numbers = numbers.float() + tensor.added
        return numbers.to(self._dtype, copy=True)

    def _bytes(self, tensor: FileTensor, count: int) -> torch.Tensor:
        part = self._parts[tensor.part]
        if tensor.offset + count > len(part):
            raise SetupError(f"{part.filename} is cut short", "Copy it again")
        return torch.from_numpy(part[tensor.offset : tensor.offset + count])


def _model_order(num_rows: int, num_heads: int) -> torch.Tensor:
    """Return the file's row of each of the model's rows: llama.cpp pairs the halves of a head."""
    return torch.arange(num_rows).view(num_heads, -1, 2).transpose(1, 2).flatten()


def _mapped(file: Path) -> Any:
    """Map a file for reading; torch wants memory that it may write, so pages are copied on a write."""
    try:
        return np.memmap(file, np.uint8, mode="c")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SetupError(
            f"cannot read {file.resolve()}: {reason}", "Start with the GGUF file again"
        ) from error
