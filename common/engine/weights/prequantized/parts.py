"""Checks of the stored tensors that one quantized weight is made of, by the headers of the files."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.engine.weights.stored import StoredTensor
from pdserve.errors import SetupError

FLOATS = ("F32", "BF16", "F16")
REMEDY = "Give the model's full weights, or its GGUF file"
_AGAIN = "Copy the whole folder again"


@dataclass(frozen=True, slots=True)
class Beside:
    """Tensors beside `main`, the one that holds a weight's numbers."""

    tensors: Mapping[str, StoredTensor]
    main: str

    def needed(
        self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None
    ) -> StoredTensor:
        """Return the entry of a tensor. Raises SetupError if it is absent, or of another dtype or shape."""
        found = self.tensors.get(name)
        if found is None:
            raise self.refusal(f"{self.main} is quantized, and {name} is missing", _AGAIN)
        if found.dtype not in dtypes:
            known = " or ".join(dtypes)
            raise self.refusal(f"{name} is stored as {found.dtype}, and must be {known}")
        if shape is not None and found.shape != shape:
            raise self.refusal(
                f"{name} has the shape {list(found.shape)}, and {self.main} needs {list(shape)}",
                _AGAIN,
            )
        return found

    def matrix(self, dtype: str) -> tuple[int, int]:
        """Return the dimensions of the main tensor. Raises SetupError unless it is a matrix of that dtype."""
        shape = self.needed(self.main, (dtype,)).shape
        if len(shape) != 2 or 0 in shape:
            raise self.refusal(f"{self.main} has the shape {list(shape)}, and is no matrix")
        return shape[0], shape[1]

    def count_groups(self, num_columns: int, group_size: int) -> int:
        """Count the groups of a row; -1: one. Raises SetupError where that is no size."""
        if group_size < 1 and group_size != -1:
            raise self.refusal(f"{self.main} has groups of {group_size}")
        return 1 if group_size == -1 else -(-num_columns // group_size)

    def has(self, name: str) -> bool:
        """Return True if there is such a tensor."""
        return name in self.tensors

    def refusal(self, reason: str, remedy: str = REMEDY) -> SetupError:
        """Return an error about this weight."""
        return SetupError(f"{self.tensors[self.main].file}: {reason}", remedy)
