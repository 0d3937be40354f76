"""Files of a model folder that are loaded, and the tensors that their headers list."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.engine.weights.config_file import CONFIG, read_config, speech_parts
from common.engine.weights.folder import INDEX, read_shards
from common.engine.weights.gguf_index import is_kept, part_files, read_index
from pdserve.errors import SetupError

_SINGLE = "model.safetensors"
_LENGTH_BYTES = 8  # a safetensors file begins with its header's length


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Entry of a safetensors header."""

    file: Path
    dtype: str  # as safetensors writes it: F32, BF16, F8_E4M3
    shape: tuple[int, ...]

    @property
    def is_wide(self) -> bool:
        """True for numbers of float32."""
        return self.dtype == "F32"


def weight_files(folder: Path) -> list[Path]:
    """Return the files that are loaded: model.safetensors, or else the shards of the index.

    Of a GGUF model that is kept as it is, these are the file's parts. Other files are never read. Raises
    SetupError when there are none, or when config.json names others.
    """
    if is_kept(folder):
        return part_files(folder, read_index(folder).num_parts)
    if named := read_config(folder).get("transformers_weights"):
        raise SetupError(
            f"{folder / CONFIG}: transformers_weights names {named!r} as the weights",
            f"Call the file {_SINGLE} and remove the key",
        )
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(read_shards(folder))]
    raise SetupError(f"{folder} holds neither {_SINGLE} nor {INDEX}", "Copy it again")


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Guard work that must read the same weights. Raises SetupError at its end if a file has changed."""
    before = _stamps(folder)
    yield
    if _stamps(folder) != before:
        raise SetupError(f"the weights in {folder} changed while they were loaded", "Start again")


def read_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """Read every tensor's entry, by name. Raises SetupError for a file that cannot be read."""
    return {name: tensor for path in files for name, tensor in read_header(path).items()}


def loaded_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read the entries of a folder's tensors that are loaded. Raises SetupError as read_tensors does."""
    return without_speech(folder, read_tensors(weight_files(folder)))


def without_speech(folder: Path, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Leave out tensors of parts that make sound of what a thinker writes."""
    speech = tuple(f"{part}." for part in speech_parts(read_config(folder)))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(speech)}


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the entries of one file. Raises SetupError unless the file ends where its header says."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(min(size, int.from_bytes(file.read(_LENGTH_BYTES), "little")))
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        tensors = {name: _stored(path, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(path) from error
    if _LENGTH_BYTES + len(header) + end != size:
        raise _damaged(path)
    return tensors


def _stamps(folder: Path) -> list[tuple[Path, int, int, int]]:
    stamps = []
    for path in weight_files(folder):
        try:
            stat = path.stat()
        except OSError as error:
            raise SetupError(f"cannot read {path}: {error.strerror}") from error
        stamps.append((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return stamps


def _stored(path: Path, entry: dict[str, object]) -> StoredTensor:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError("not an entry of a safetensors header")
    return StoredTensor(path, dtype, tuple(shape))


def _damaged(path: Path) -> SetupError:
    return SetupError(f"{path} is cut short or not a safetensors file", "Copy it again")
