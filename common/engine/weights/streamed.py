"""Reading of checkpoints tensor by tensor, so that no more is in memory than what was read and kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import modeling_utils


@contextmanager
def unmapped() -> Iterator[None]:
    """Have `transformers` read tensors from files, inside the block, where it would map the files.

    Pages of a mapping stay in memory until the whole file is closed: beside the weights that are converted,
    copied to a device or laid out anew. `transformers` reads by itself on other systems, and has no switch.
    """
    module: Any = modeling_utils
    before = module.safe_open

    def open_unmapped(file: str | Path, framework: str, device: str, backend: str) -> safe_open:
        return safe_open(file, framework=framework, device=device, backend="pread")

    module.safe_open = open_unmapped
    try:
        yield
    finally:
        module.safe_open = before
