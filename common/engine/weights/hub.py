"""Download of a model folder from the Hugging Face hub: configuration, safetensors and tokenizer."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from common.engine.weights.progress import Progress
from pdserve.errors import SetupError

_ANSWER_WITHIN_S = 8.0
_POLL_S = 0.1
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
# Other formats' copies of the same weights.
_UNWANTED = ["*/*", "consolidated*.safetensors"]


def fetch_from_hub(
    repo_id: str,
    progress: Progress,
    *,
    endpoint: str | None = None,
    hub_cache: Path | None = None,
) -> Path:
    """Return the folder of a hub model, fetched if need be; never pickled weights.

    `repo_id` is `org/name`, or `org/name@revision` for a branch, tag or commit. The hub client takes a token
    for gated models from HF_TOKEN or from its own login. `endpoint` (a mirror's address) and `hub_cache`
    default to its own settings, so that what other tools have fetched is found. A whole copy from an earlier
    fetch serves when the hub does not answer. Raises SetupError, within about 20 s when there is no hub.
    """
    given = repo_id
    repo_id, _, revision = repo_id.partition("@")
    try:
        return _download(repo_id, revision, progress, endpoint, hub_cache)
    # The hub client lets its HTTP library's errors through, and has changed that library twice.
    except Exception as error:
        if copy := _earlier_copy(repo_id, revision, hub_cache):
            return copy
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SetupError(
            f"there is no folder {given!r} here, and the hub did not give it: {reason}",
            _remedy(error),
        ) from error


def _remedy(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):  # a private model, or one whose licence must be accepted
        return "Set HF_TOKEN to a token that may read it, or fetch it elsewhere and give its folder"
    return "Check the name and the network, or fetch the model elsewhere and give its folder"


def _download(
    repo_id: str, revision: str, progress: Progress, endpoint: str | None, hub_cache: Path | None
) -> Path:
    # Half a second, needed for hub ids alone.
    from huggingface_hub import HfApi, snapshot_download

    progress.stage(f"ask the hub for {repo_id}", None)
    # Also for its deadline: snapshot_download would wait for ever for this answer.
    info = HfApi(endpoint).model_info(
        repo_id, revision=revision or None, timeout=_ANSWER_WITHIN_S, files_metadata=True
    )
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    progress.stage(f"download {repo_id}", _wanted_bytes(sizes))
    with _no_bars(), _watching(_blobs(repo_id, hub_cache), progress):
        folder = snapshot_download(
            repo_id,
            revision=revision or None,
            endpoint=endpoint,
            cache_dir=hub_cache,
            etag_timeout=_ANSWER_WITHIN_S,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    return Path(folder)


def _wanted_bytes(sizes: Mapping[str, int | None]) -> int | None:
    """Sum the bytes of the files that will be fetched; None when the hub does not say."""
    wanted = [size for name, size in sizes.items() if _is_wanted(name)]
    return None if None in wanted else sum(size or 0 for size in wanted)


def _is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _WANTED) and not any(
        fnmatch(name, pattern) for pattern in _UNWANTED
    )


def _blobs(repo_id: str, hub_cache: Path | None) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repo_id, repo_type="model")
    return Path(hub_cache or constants.HF_HUB_CACHE) / folder / "blobs"


@contextmanager
def _watching(folder: Path, progress: Progress) -> Iterator[None]:
    """Report the growth of the folder's files; the hub client's own bars are made for its own use."""
    done, before = threading.Event(), _size(folder)

    def watch() -> None:
        shown, is_over = before, False
        while not is_over:
            is_over = done.wait(_POLL_S)
            size = _size(folder)
            progress.advance(max(0, size - shown))
            shown = max(shown, size)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        # a partial file is renamed when it is whole
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _earlier_copy(repo_id: str, revision: str, hub_cache: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision or None,
                local_files_only=True,
                cache_dir=hub_cache,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
            )
        )
    # A missing copy, a partial one and a damaged one are the same to the caller.
    except Exception:
        return None


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
