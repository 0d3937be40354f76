"""Index of a GGUF model that is kept as it is: where each weight lies, and what becomes of it.

The index lies in a folder with the model's configuration, its tokenizer, and a link to each part of the file.
Finding a weight there needs neither the file's vocabulary nor `gguf`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pdserve.errors import SetupError

INDEX_FILE = "gguf_index.json"


@dataclass(frozen=True, slots=True)
class FileTensor:
    """Tensor of the file, under the name that the model has for it."""

    part: int  # number of the file
    offset: int  # of its bytes in that file
    kind: str  # ggml's name of its type: F32, Q4_K
    shape: tuple[int, ...]  # [out, in] of a weight
    num_heads: int = 0  # whose rows llama.cpp puts into another order; 0: none
    added: float = 0.0  # to every number, to give the model's


@dataclass(frozen=True, slots=True)
class GgufIndex:
    """All tensors of a model, by the model's names."""

    form: str  # ggml's name of the type of most weights, in small letters
    num_parts: int
    tensors: Mapping[str, FileTensor]

    def write(self, folder: Path) -> None:
        """Write the index into the model's folder."""
        (folder / INDEX_FILE).write_text(json.dumps(asdict(self)))


def is_kept(folder: Path) -> bool:
    """Return True if the folder is of a GGUF model that is kept as it is."""
    return (folder / INDEX_FILE).is_file()


def read_index(folder: Path) -> GgufIndex:
    """Read the index of the folder. Raises SetupError, naming the file, where it is damaged."""
    file = folder / INDEX_FILE
    try:
        raw = json.loads(file.read_bytes())
        tensors = {
            name: FileTensor(**{**fields, "shape": tuple(fields["shape"])})
            for name, fields in raw["tensors"].items()
        }
        return GgufIndex(str(raw["form"]), int(raw["num_parts"]), tensors)
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"{file} is damaged", f"Remove the folder {folder}") from error


def part_files(folder: Path, num_parts: int) -> list[Path]:
    """Return the links to the parts of the GGUF file."""
    return [folder / f"part-{number}.gguf" for number in range(1, num_parts + 1)]


def link_parts(folder: Path, parts: tuple[Path, ...]) -> None:
    """Have the folder's links lead to `parts`, wherever they led before. Raises OSError."""
    for link, part in zip(part_files(folder, len(parts)), parts, strict=True):
        target = part.resolve()
        if link.is_symlink() and link.readlink() == target:
            continue
        new = link.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(link)
