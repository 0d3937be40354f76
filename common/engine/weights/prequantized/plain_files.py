"""Files of a quantized folder as `transformers` reads them: with plain weights in place of their parts."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common.engine.weights.prequantized.opened import OpenFiles
from common.engine.weights.prequantized.packed import PackedWeight, Read
from common.engine.weights.prequantized.plan import Plan
from common.engine.weights.streamed import as_it_is, unmapped


@contextmanager
def plain_files(plan: Plan | None, dtype: torch.dtype) -> Iterator[None]:
    """Have `transformers` read, inside the block, the plain weights of `plan` in `dtype`.

    Without a plan it reads the files as they are. Each weight is dequantized when it is asked for, by the
    thread that asks. Its parts may lie in several files.
    """
    seen = as_it_is if plan is None else _Plain(plan, OpenFiles(plan.stored).read, dtype).seen
    with unmapped(seen):
        yield


class _Plain:
    """Plain weights of a plan, by the file that they are listed in."""

    def __init__(self, plan: Plan, read: Read, dtype: torch.dtype) -> None:
        self._read, self._dtype = read, dtype
        self._packed: dict[Path, dict[str, PackedWeight]] = defaultdict(dict)
        self._plain: dict[Path, list[str]] = defaultdict(list)
        for name, weight in plan.packed.items():
            self._packed[plan.stored[weight.main].file.resolve()][name] = weight
        for name, tensor in plan.plain.items():
            self._plain[tensor.file.resolve()].append(name)

    def seen(self, file: Any, path: Path) -> "_PlainFile":
        """Return an open file with its plain weights."""
        path = path.resolve()
        weights = {
            name: _Weight(weight, self._read, self._dtype)
            for name, weight in self._packed[path].items()
        }
        return _PlainFile(file, self._plain[path], weights)


class _Weight:
    """Plain weight that is not read yet, as a slice of a safetensors file is."""

    def __init__(self, weight: PackedWeight, read: Read, dtype: torch.dtype) -> None:
        self._weight, self._read, self._dtype = weight, read, dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._weight.dequantized(self._read, self._dtype)[index]


class _PlainFile:
    """Open safetensors file that lists plain weights."""

    def __init__(self, file: Any, plain: list[str], weights: dict[str, _Weight]) -> None:
        self._file, self._plain, self._weights = file, plain, weights

    def keys(self) -> list[str]:
        """Return the names of all tensors."""
        return [*self._plain, *self._weights]

    def get_slice(self, name: str) -> Any:
        """Return a tensor that is read when it is indexed."""
        return self._weights[name] if name in self._weights else self._file.get_slice(name)

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)
