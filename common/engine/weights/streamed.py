"""Reading of checkpoints tensor by tensor, so that no more is in memory than what was read and kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import modeling_utils

Seen = Callable[[Any, Path], Any]
"""Function that returns what `transformers` sees of an open file."""


def as_it_is(file: Any, path: Path) -> Any:
    """Return the file itself; a Seen."""
    return file


@contextmanager
def unmapped(seen: Seen = as_it_is) -> Iterator[None]:
    """Have `transformers` read tensors from files, inside the block, where it would map the files.

    Pages of a mapping stay in memory until the whole file is closed: beside the weights that are converted,
    copied to a device or laid out anew. `transformers` reads by itself on other systems, and has no switch.
    `seen` is asked once for each file.
    """
    module: Any = modeling_utils
    before = module.safe_open

    def open_unmapped(file: str | Path, framework: str, device: str, backend: str) -> Any:
        opened = safe_open(file, framework=framework, device=device, backend="pread")
        return seen(opened, Path(file))

    module.safe_open = open_unmapped
    try:
        yield
    finally:
        module.safe_open = before
