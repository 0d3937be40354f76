"""Folders whose products somebody has quantized, in formats that are written here as they are defined."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.unit.common.engine.tiny_models import save_model
from tests.unit.common.engine.weights.edited import Tensors, edit_config
from tests.unit.common.engine.weights.loading import load

# those of the layers, and the experts that are stacked
_PRODUCT = re.compile(r"(.*\.layers\..*_proj\.|.*\.experts\.\w+_proj)(weight)?")


@dataclass(frozen=True)
class Written:
    """Weight as it is stored, by what names have behind the layer's, and the numbers that it stands for."""

    parts: Tensors
    plain: torch.Tensor


Write = Callable[[torch.Tensor], Written | None]
"""Writer of a weight; None: the format leaves it as it is."""


@dataclass(frozen=True)
class Folders:
    """A quantized folder, and one with the plain weights."""

    quantized: Path
    plain: Path


def write_folders(
    root: Path, family: str, settings: dict[str, object], write: Write, **changes: object
) -> Folders:
    """Write a random model of `family` twice. `write` is called for the weight of each product."""
    return write_both(root, lambda path: save_model(path, family, **changes), settings, write)


def write_both(
    root: Path,
    save_random: Callable[[Path], object],
    settings: dict[str, object],
    write: Write,
) -> Folders:
    """Do the same with what `save_random` writes into both folders."""
    folders = Folders(root / "quantized", root / "plain")
    save_random(folders.quantized)
    save_random(folders.plain)
    tensors = load_file(folders.plain / "model.safetensors")
    stored: Tensors = {}
    for name, tensor in list(tensors.items()):
        product = _PRODUCT.fullmatch(name)
        written = write(tensor) if product else None
        if product is None or written is None:
            stored[name] = tensor
            continue
        tensors[name] = written.plain
        stored |= {f"{product[1]}{end}": part for end, part in written.parts.items()}
    save(folders.plain, tensors)
    save(folders.quantized, stored)
    edit_config(folders.quantized, quantization_config=settings)
    return folders


def assert_same_weights(folders: Folders) -> None:
    loaded = load(folders.quantized).state_dict()
    for name, tensor in load(folders.plain).state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def save(folder: Path, tensors: Tensors) -> None:
    """Write model.safetensors."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def move_settings(folder: Path, name: str, **renamed: str) -> None:
    """Move the settings out of config.json into a file of their own, under other keys."""
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization_config")
    del settings["quant_method"]
    (folder / "config.json").write_text(json.dumps(config))
    named = {renamed.get(key, key): value for key, value in settings.items()}
    (folder / name).write_text(json.dumps(named))


def words(numbers: torch.Tensor, bits: int, order: list[int] | None = None) -> torch.Tensor:
    """Pack the last dimension into int32; place i of a word, from its lowest bits, holds number order[i]."""
    per_word = 32 // bits
    packed = torch.zeros(*numbers.shape[:-1], numbers.shape[-1] // per_word, dtype=torch.int64)
    for place, number in enumerate(order or range(per_word)):
        packed |= numbers[..., number::per_word].long() << (bits * place)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int()


def random_levels(shape: torch.Size, bits: int) -> torch.Tensor:
    """Draw unsigned integers."""
    return torch.randint(0, 1 << bits, shape)


def random_scales(*shape: int, bits: int = 4) -> torch.Tensor:
    """Draw float16 scales that make weights about as large as those of `save_model`."""
    return (torch.rand(shape) + 0.5).half() * (1.4 / (1 << bits))


def random_zeros(*shape: int, bits: int = 4) -> torch.Tensor:
    """Draw zero points about the middle."""
    half = 1 << bits - 1
    return torch.randint(half - 2, half + 3, shape)


def spread(by_group: torch.Tensor, group_of: torch.Tensor) -> torch.Tensor:
    """Return numbers [N, K] of those of groups [N, G]."""
    return by_group[:, group_of].float()
