"""Changes of a folder's tensors."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def edit(folder: Path, change: Callable[[Tensors], None]) -> None:
    """Write model.safetensors anew, with its tensors by name as `change` leaves them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop(*names: str) -> Callable[[Tensors], None]:
    """A change for `edit`: without these."""

    def change(tensors: Tensors) -> None:
        for name in names:
            del tensors[name]

    return change


def add(name: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    """A change for `edit`: with one more."""
    return lambda tensors: tensors.update({name: tensor})


def cut(name: str) -> Callable[[Tensors], None]:
    """A change for `edit`: without the first row of one."""
    return lambda tensors: tensors.update({name: tensors[name][1:].clone()})


def edit_config(folder: Path, **fields: object) -> None:
    """Set fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def shard(folder: Path) -> None:
    """Cut model.safetensors into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
