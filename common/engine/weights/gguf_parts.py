"""Parts of a GGUF model that llama.cpp split: NAME-00001-of-00003.gguf and the files beside it."""

import re
from pathlib import Path

from pdserve.errors import SetupError

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def find_parts(path: Path) -> tuple[Path, ...]:
    """Return all files of the model that `path` is a part of, in order; itself alone for a whole one.

    Raises SetupError, naming the file, for a part that is not there.
    """
    found = _PART.fullmatch(path.name)
    if found is None:
        return (path,)
    count = int(found["count"])
    parts = [
        path.with_name(f"{found['name']}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not parts:
        raise SetupError(
            f"{path.name} is one of {count} parts of a model, and {', '.join(missing)} is not there",
            f"Put all parts into {path.parent}",
        )
    return tuple(parts)


def model_name(path: Path) -> str:
    """Return the name of the model in a GGUF file, without the number of its part."""
    found = _PART.fullmatch(path.name)
    return path.stem if found is None else found["name"]
