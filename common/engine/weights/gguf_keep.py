"""Preparation of a GGUF file that is kept as it is: its configuration and tokenizer, and an index."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.engine.weights.convert import REMEDY, OpenGguf, open_alone, save_tokenizer
from common.engine.weights.gguf_facts import ROPE_TENSORS
from common.engine.weights.gguf_index import FileTensor, GgufIndex, link_parts
from common.engine.weights.gguf_parts import find_parts
from common.engine.weights.progress import Progress
from pdserve.errors import SetupError

_PLAIN = {"F32", "F16", "BF16"}
_MERGED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_STEPS = 2  # tokenizer read, folder written
_LLAMA = {"llama"}  # files whose query and key rows have llama.cpp's order
_GEMMA = {"gemma2", "gemma3"}  # files whose norms have Gemma's 1 added already


class CannotKeepError(SetupError):
    """Raised for a file whose weights must be dequantized; the message says why, or nothing for full ones."""


def keep_gguf(gguf: Path, out: Path, progress: Progress) -> None:
    """Write all but the weights of a GGUF file, given any of its parts, to the new folder `out`.

    Raises CannotKeepError where the fused pass has no panels for its weights, and SetupError as convert_gguf
    does.
    """
    with open_alone(gguf, out.parent) as opened:
        _keep(opened, out, progress)
    link_parts(out, find_parts(gguf))


def _keep(opened: OpenGguf, out: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(opened.folder, gguf_file=opened.name, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    index = _index(opened, model)
    progress.stage("read configuration and tokenizer", _STEPS)
    out.mkdir()
    save_tokenizer(opened, model, out)
    progress.advance(1)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    index.write(out)
    progress.advance(1)


def _index(opened: OpenGguf, model: Any) -> GgufIndex:
    from common.engine.fused.families import known_activation

    tensors = opened.reader.tensors
    kinds = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    if set(kinds.values()) <= _PLAIN:
        raise CannotKeepError("")
    if opened.reader.byte_order == "S":
        raise CannotKeepError("its bytes are in another order than this machine's")
    if known_activation(type(model).__name__, model.config) is None:
        raise CannotKeepError(f"{type(model).__name__} has no fused pass")
    names = _model_names(opened, model)
    _refuse_unknown(kinds, names, model)
    found = {names[name]: tensor for name, tensor in _in_file(opened, model) if name in names}
    wanted = [name for name, _ in model.named_parameters()]  # a tied head is not among them
    if missing := [name for name in wanted if name not in found]:
        first = sorted(missing)[0]
        raise SetupError(f"the GGUF file lacks {len(missing)} weights ({first} ...)", REMEDY)
    if mixed := next(_mixed(found), None):
        raise CannotKeepError(f"{mixed} of a layer are quantized only in part")
    return GgufIndex(_form(opened), len(opened.reader.num_tensors), found)


def _model_names(opened: OpenGguf, model: Any) -> Mapping[str, str]:
    """Return the model's name of each tensor that a file may have."""
    try:
        from transformers.modeling_gguf_pytorch_utils import (
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        names: Mapping[str, str] = get_gguf_hf_weights_map(model, TensorProcessor())
    # private to transformers, so another version may lack or change them
    except (ImportError, TypeError, NotImplementedError) as error:
        raise CannotKeepError(f"this transformers does not tell its names: {error}") from error
    return names


def _refuse_unknown(kinds: Mapping[str, str], names: Mapping[str, str], model: Any) -> None:
    from torch import nn

    from common.engine.weights.gguf_blocks import BLOCK_TYPES

    for name, kind in kinds.items():
        if kind not in _PLAIN and kind not in BLOCK_TYPES:
            raise CannotKeepError(f"{name} is {kind}")
        if name not in names and name not in ROPE_TENSORS:
            raise CannotKeepError(f"{type(model).__name__} does not know {name}")
        if kind in BLOCK_TYPES:
            module = model.get_submodule(names[name].rpartition(".")[0])
            if not isinstance(module, nn.Linear | nn.Embedding):
                raise CannotKeepError(f"{name} is {kind}, and no weight of a product")


def _in_file(opened: OpenGguf, model: Any) -> Iterator[tuple[str, FileTensor]]:
    """Yield each tensor by its name in the file."""
    tensors, config = iter(opened.reader.tensors), model.config
    for part, count in enumerate(opened.reader.num_tensors):
        for _, tensor in zip(range(count), tensors, strict=False):
            name, heads = tensor.name, 0
            if opened.architecture in _LLAMA and ".attn_q." in name:
                heads = config.num_attention_heads
            elif opened.architecture in _LLAMA and ".attn_k." in name:
                heads = config.num_key_value_heads
            is_norm = opened.architecture in _GEMMA and "norm.weight" in name
            shape = tuple(int(size) for size in reversed(tensor.shape))
            kind, offset = tensor.tensor_type.name, int(tensor.data_offset)
            yield name, FileTensor(part, offset, kind, shape, heads, -1.0 if is_norm else 0.0)


def _mixed(tensors: Mapping[str, FileTensor]) -> Iterator[str]:
    """Yield the names of products that are merged, and of which only some are quantized."""
    for group in _MERGED:
        for name in tensors:
            owner, _, leaf = name.removesuffix(".weight").rpartition(".")
            if leaf == group[0] and name.endswith(".weight"):
                others = [tensors[f"{owner}.{one}.weight"].kind in _PLAIN for one in group]
                if len(set(others)) > 1:
                    yield " and ".join(group)


def _form(opened: OpenGguf) -> str:
    """Return the type of most bytes of the layers."""
    sizes = Counter[str]()
    for tensor in opened.reader.tensors:
        if tensor.name.startswith("blk."):
            sizes[tensor.tensor_type.name] += int(tensor.n_bytes)
    return sizes.most_common(1)[0][0].lower()
