"""Resolution of MODEL, as a user writes it, to a folder that can be loaded."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.engine.weights.cache import entry_name, publish
from common.engine.weights.catalog import CATALOG, look_up
from common.engine.weights.convert import convert_gguf
from common.engine.weights.folder import PICKLE_SUFFIXES, check_folder, refuse_pickle
from common.engine.weights.hub import fetch_from_hub
from common.engine.weights.progress import Progress
from common.engine.weights.pull import pull
from pdserve.errors import SetupError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelSource:
    """Model that is ready to load."""

    name: str  # its name for users: the alias, the folder's or file's name, or the hub id
    path: Path  # absolute; holds config.json, safetensors files and tokenizer.json


def resolve_model(
    model: str,
    cache_dir: Path,
    progress: Progress,
    *,
    fetch: Callable[[str, Progress], Path] = fetch_from_hub,
) -> ModelSource:
    """Turn an alias, a folder, a GGUF file or a hub id into a folder, fetching what is missing.

    An alias wins over a folder of the same name, which can be written `./name`. Raises SetupError
    for anything that is none of these or cannot be made ready.
    """
    if model in CATALOG:
        return ModelSource(model, pull(model, cache_dir, progress).absolute())
    # Not resolve(): a link's own name is the one the user chose. And os.path's questions, since
    # Path's raise where the answer is no (a folder above that may not be read, a name too long).
    path = Path(os.path.abspath(os.path.expanduser(model)))
    if model and os.path.isdir(path):
        check_folder(path)
        return ModelSource(path.name, path)
    if os.path.isfile(path):
        return _from_file(path, cache_dir, progress)
    if _looks_like_a_path(model):
        kind = "file" if path.suffix in (".gguf", ".safetensors", *PICKLE_SUFFIXES) else "folder"
        raise SetupError(f"no such {kind}: {model}", "Check the path")
    if _HUB_ID.fullmatch(model):
        folder = fetch(model, progress)
        check_folder(folder)
        return ModelSource(model, folder.absolute())
    # Raises: CATALOG was asked above.
    return ModelSource(look_up(model).alias, path)


def _from_file(path: Path, cache_dir: Path, progress: Progress) -> ModelSource:
    if path.suffix in PICKLE_SUFFIXES:
        raise refuse_pickle(path, str(path))
    if path.suffix == ".safetensors":
        raise SetupError(f"{path} is one file of a model", f"Give its folder: {path.parent}")

    def build(work: Path) -> Path:
        convert_gguf(path, work / "model", progress)
        return work / "model"

    entry = entry_name(_sha256(path, progress))
    return ModelSource(path.stem, publish(cache_dir, entry, build, progress).absolute())


def _sha256(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    progress.stage(f"check {path.name}", path.stat().st_size)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                progress.advance(len(chunk))
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _looks_like_a_path(model: str) -> bool:
    written_as_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    return written_as_path or Path(model).suffix in (".gguf", ".safetensors", *PICKLE_SUFFIXES)
