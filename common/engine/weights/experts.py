"""Check of a mixture's experts: checkpoints hold them one by one, `transformers` stacks them."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from common.engine.weights.stored import StoredTensor
from pdserve.errors import SetupError

_EXPERT = re.compile(r"(.*\.experts\.)(\d+)(\..*)")
_REMEDY = "Copy the whole folder again"


def refuse_uneven_experts(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise SetupError, naming the tensor, where one expert of a layer lacks a tensor of the others.

    Called for a model that could not be loaded: `transformers` only says that the stack cannot be built, or
    that it is too short.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    parts: dict[str, dict[str, int]] = defaultdict(dict)  # one expert that has each part
    for name in tensors:
        if match := _EXPERT.fullmatch(name):
            layer, number, part = match[1], int(match[2]), match[3]
            numbers[layer].add(number)
            parts[layer].setdefault(part, number)
    for layer, part, example in ((x, y, n) for x, known in parts.items() for y, n in known.items()):
        shape = tensors[f"{layer}{example}{part}"].shape
        for number in sorted(numbers[layer]):
            name = f"{layer}{number}{part}"
            if name not in tensors:
                raise SetupError(f"{folder} lacks the tensor {name}", _REMEDY)
            if (found := tensors[name].shape) != shape:
                reason = f"{name} has the shape {list(found)}, that of another expert {list(shape)}"
                raise SetupError(f"{folder}: {reason}", _REMEDY)
