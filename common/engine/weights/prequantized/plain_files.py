"""Files of a quantized folder as `transformers` reads them: with plain weights in place of their parts."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common.engine.fused.held import HeldWeight
from common.engine.weights.prequantized.held_integers import Held, hold
from common.engine.weights.prequantized.integers import GroupedIntegers
from common.engine.weights.prequantized.opened import OpenFiles
from common.engine.weights.prequantized.packed import PackedWeight, Read
from common.engine.weights.prequantized.panel_groups import kept_form
from common.engine.weights.prequantized.plan import Plan
from common.engine.weights.streamed import unmapped
from pdserve.errors import SetupError

Make = Callable[[PackedWeight], torch.Tensor]
"""Function that makes the plain weight."""


@contextmanager
def plain_files(plan: Plan | None, dtype: torch.dtype) -> Iterator[Held]:
    """Have `transformers` read, inside the block, the plain weights of `plan` in `dtype`.

    Without a plan it reads the files as they are. Each weight is dequantized when it is asked for, by the
    thread that asks. Its parts may lie in several files. With `plan.keeps` it is held as integers instead;
    `transformers` gets a tensor that takes no memory.
    """
    if plan is None:
        with unmapped():
            yield {}
        return
    read = OpenFiles(plan.stored).read
    keeper = _Keeper(read, dtype)
    make: Make = keeper.keep if plan.keeps else lambda weight: weight.dequantized(read, dtype)
    with unmapped(_Plain(plan, make).seen):
        yield keeper.held


class _Keeper:
    """Maker of stand-ins for weights whose integers are held."""

    def __init__(self, read: Read, dtype: torch.dtype) -> None:
        self._read, self._dtype = read, dtype
        self.held: dict[int, tuple[torch.Tensor, HeldWeight]] = {}

    def keep(self, weight: PackedWeight) -> torch.Tensor:
        """Hold a weight; a Make. Raises SetupError for groups that are not in order."""
        numbers, kept = weight.numbers(self._read), kept_form(weight)
        if kept is None or not isinstance(numbers, GroupedIntegers) or numbers.group_of is not None:
            raise SetupError(
                f"{weight.main} has its groups in another order than the settings say",
                "set engine.quantization to none",
            )
        standing_in = torch.zeros((), dtype=self._dtype).expand(weight.shape)
        self.held[standing_in.data_ptr()] = (standing_in, hold(numbers, kept))
        return standing_in


class _Plain:
    """Plain weights of a plan, by the file that they are listed in."""

    def __init__(self, plan: Plan, make: Make) -> None:
        self._make = make
        self._packed: dict[Path, dict[str, PackedWeight]] = defaultdict(dict)
        self._plain: dict[Path, list[str]] = defaultdict(list)
        for name, weight in plan.packed.items():
            self._packed[plan.stored[weight.main].file.resolve()][name] = weight
        for name, tensor in plan.plain.items():
            self._plain[tensor.file.resolve()].append(name)

    def seen(self, file: Any, path: Path) -> "_PlainFile":
        """Return an open file with its plain weights."""
        path = path.resolve()
        weights = {name: _Slice(weight, self._make) for name, weight in self._packed[path].items()}
        return _PlainFile(file, self._plain[path], weights)


class _Slice:
    """Plain weight that is not made yet, as a slice of a safetensors file is."""

    def __init__(self, weight: PackedWeight, make: Make) -> None:
        self._weight, self._make = weight, make

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._make(self._weight)[index]


class _PlainFile:
    """Open safetensors file that lists plain weights."""

    def __init__(self, file: Any, plain: list[str], weights: dict[str, _Slice]) -> None:
        self._file, self._plain, self._weights = file, plain, weights

    def keys(self) -> list[str]:
        """Return the names of all tensors."""
        return [*self._plain, *self._weights]

    def get_slice(self, name: str) -> Any:
        """Return a tensor that is read when it is indexed."""
        return self._weights[name] if name in self._weights else self._file.get_slice(name)

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)
