"""A short name for a model's weights, so that two workers can tell whether they hold the same."""

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

from pdserve.errors import SetupError

_DIGEST_BYTES = 16
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
_LENGTH_BYTES = 8  # a safetensors file begins with its header's length


def fingerprint(model_dir: Path) -> str:
    """32 hex digits that follow from config.json and the safetensors files of a folder.

    Covers names, sizes, headers and 64 samples of 64 KiB spread over each file: reading a whole
    checkpoint of 100 GB at each start would be too slow. Training moves every weight, so two
    fine-tunes of one shape differ; an edit of a few bytes by hand may not show. Raises SetupError
    when a file is missing or cut short.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"pdserve-model")
    weights = sorted(model_dir.glob("*.safetensors"))
    try:
        _add(digest, (model_dir / "config.json").read_bytes())
        for path in weights:
            _add(digest, path.name.encode())
            with path.open("rb") as file:
                _add_weights(digest, file, path)
    except OSError as error:
        raise SetupError(f"cannot read the model {model_dir}: {error}") from error
    if not weights:
        raise SetupError(f"{model_dir} holds no *.safetensors file")
    return digest.hexdigest()


def _add_weights(digest: "hashlib.blake2b", file: BinaryIO, path: Path) -> None:
    size = os.fstat(file.fileno()).st_size
    header = file.read(min(size, int.from_bytes(file.read(_LENGTH_BYTES), "little")))
    start = _LENGTH_BYTES + len(header)
    if start + _data_bytes(header, path) != size:
        raise _damaged(path)
    _add(digest, size.to_bytes(_LENGTH_BYTES, "little"))
    _add(digest, header)
    for offset in _offsets(size - start):
        file.seek(start + offset)
        _add(digest, file.read(_SAMPLE_BYTES))


def _offsets(data_bytes: int) -> list[int]:
    last = data_bytes - _SAMPLE_BYTES
    if data_bytes <= _SAMPLES * _SAMPLE_BYTES:
        return list(range(0, data_bytes, _SAMPLE_BYTES))
    return [last * i // (_SAMPLES - 1) for i in range(_SAMPLES)]


def _data_bytes(header: bytes, path: Path) -> int:
    try:
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        return max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> SetupError:
    return SetupError(f"{path} is cut short or not a safetensors file", "Copy it again")


def _add(digest: "hashlib.blake2b", part: bytes) -> None:
    # The length keeps two parts from being read as one.
    digest.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
    digest.update(part)
