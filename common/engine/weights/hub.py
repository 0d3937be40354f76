"""Fetching a model folder from the Hugging Face hub: configuration, safetensors and tokenizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdserve.errors import SetupError

_ANSWER_WITHIN_S = 8.0
_WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
# Other formats' copies of the same weights.
_UNWANTED = ["*/*", "consolidated*.safetensors"]


def fetch_from_hub(
    repo_id: str, *, endpoint: str | None = None, hub_cache: Path | None = None
) -> Path:
    """The folder of a hub model (`org/name`); never pickled weights.

    `endpoint` (a mirror's address) and `hub_cache` default to the hub client's own settings, so
    that what other tools have fetched is found. A whole copy from an earlier fetch serves when the
    hub does not answer. Raises SetupError, within about 20 s when there is no hub.
    """
    # Half a second, needed for hub ids alone.
    from huggingface_hub import HfApi, snapshot_download

    try:
        with _no_bars():
            # Asked only for its deadline: snapshot_download would wait for ever for this answer.
            HfApi(endpoint).model_info(repo_id, timeout=_ANSWER_WITHIN_S)
            return Path(
                snapshot_download(
                    repo_id,
                    endpoint=endpoint,
                    cache_dir=hub_cache,
                    etag_timeout=_ANSWER_WITHIN_S,
                    allow_patterns=_WANTED,
                    ignore_patterns=_UNWANTED,
                )
            )
    # The hub client lets its HTTP library's errors through, and has changed that library twice.
    except Exception as error:
        if copy := _earlier_copy(repo_id, hub_cache):
            return copy
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SetupError(
            f"there is no folder {repo_id!r} here, and the hub did not give it: {reason}",
            "Check the name and the network, or fetch the model elsewhere and give its folder",
        ) from error


def _earlier_copy(repo_id: str, hub_cache: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo_id,
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
