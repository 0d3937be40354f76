"""Resolution of MODEL, as a user writes it, to a folder that can be loaded."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.engine.weights.cache import entry_name, kept_entry_name, publish
from common.engine.weights.catalog import CATALOG, look_up
from common.engine.weights.convert import convert_gguf
from common.engine.weights.folder import PICKLE_SUFFIXES, check_folder, refuse_pickle
from common.engine.weights.gguf_index import link_parts
from common.engine.weights.gguf_keep import CannotKeepError, keep_gguf
from common.engine.weights.gguf_parts import find_parts, model_name
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
    # absolute; holds config.json, tokenizer.json, and safetensors files or a kept GGUF file's index
    path: Path
    remark: str = ""  # to tell the user, in one line


def resolve_model(
    model: str,
    cache_dir: Path,
    progress: Progress,
    *,
    keep_quantized: bool = False,
    fetch: Callable[[str, Progress], Path] = fetch_from_hub,
) -> ModelSource:
    """Turn an alias, a folder, a GGUF file or a hub id into a folder, fetching what is missing.

    An alias wins over a folder of the same name, which can be written `./name`. With `keep_quantized` the
    weights of a quantized GGUF file stay there where that is possible. Raises SetupError for anything that is
    none of these or cannot be made ready.
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
        return _from_file(path, cache_dir, progress, keep_quantized)
    if _looks_like_a_path(model):
        kind = "file" if path.suffix in (".gguf", ".safetensors", *PICKLE_SUFFIXES) else "folder"
        raise SetupError(f"no such {kind}: {model}", "Check the path")
    if _HUB_ID.fullmatch(model):
        folder = fetch(model, progress)
        check_folder(folder)
        return ModelSource(model, folder.absolute())
    # Raises: CATALOG was asked above.
    return ModelSource(look_up(model).alias, path)


def _from_file(
    path: Path, cache_dir: Path, progress: Progress, keep_quantized: bool
) -> ModelSource:
    if path.suffix in PICKLE_SUFFIXES:
        raise refuse_pickle(path, str(path))
    if path.suffix == ".safetensors":
        raise SetupError(f"{path} is one file of a model", f"Give its folder: {path.parent}")
    sha256, name, remark = _sha256(find_parts(path), progress), model_name(path), ""
    if keep_quantized:
        try:
            return ModelSource(name, _kept(path, sha256, cache_dir, progress))
        except CannotKeepError as error:
            remark = f"{path.name} is served dequantized: {error}" if str(error) else ""

    def build(work: Path) -> Path:
        convert_gguf(path, work / "model", progress)
        return work / "model"

    folder = publish(cache_dir, entry_name(sha256), build, progress)
    return ModelSource(name, folder.absolute(), remark)


def _kept(path: Path, sha256: str, cache_dir: Path, progress: Progress) -> Path:
    """Return the folder of a file that keeps its weights; its links lead to where the file is now."""

    def build(work: Path) -> Path:
        keep_gguf(path, work / "model", progress)
        return work / "model"

    folder = publish(cache_dir, kept_entry_name(sha256), build, progress)
    try:
        link_parts(folder, find_parts(path))
    except OSError as error:
        raise SetupError(
            f"cannot write {folder}: {error.strerror}", "Fix its permissions"
        ) from error
    return folder.absolute()


def _sha256(parts: Sequence[Path], progress: Progress) -> str:
    digest = hashlib.sha256()
    for path in parts:
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
