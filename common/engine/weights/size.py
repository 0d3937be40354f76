"""Memory that loading a checkpoint takes, by the headers of its files."""

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def loading_bytes(model_dir: Path, dtype: str) -> int:
    """Return the bytes of a folder's weights in `dtype` at the time when most of them are held.

    Weights stored in another dtype count twice: the converted ones stay while the fused pass lays them
    out anew. Weights stored in `dtype` are mapped from the file, memory that the system can take back. A
    file that cannot be read counts nothing: loading it says what is wrong.
    """
    return sum(_file_bytes(path, dtype) for path in model_dir.glob("*.safetensors"))


def _file_bytes(path: Path, dtype: str) -> int:
    try:
        with safe_open(path, framework="np") as file:
            tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - no mapping
            copies = (2 - (tensor.get_dtype() == _STORED[dtype]) for tensor in tensors)
            sizes = (math.prod(tensor.get_shape()) for tensor in tensors)
            num_items: int = sum(n * size for n, size in zip(copies, sizes, strict=True))
            return num_items * _ITEM_BYTES[dtype]
    except (OSError, SafetensorError):
        return 0
