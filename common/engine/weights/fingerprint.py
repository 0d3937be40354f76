"""Fingerprint of a model's weights, by which two workers tell if they hold the same."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from common.engine.weights.config_file import CONFIG
from common.engine.weights.prequantized.settings import settings_files
from common.engine.weights.stored import read_header, weight_files
from pdserve.errors import SetupError

_DIGEST_BYTES = 16
_CHUNK_BYTES = 256 * 1024  # fits a core's own cache, where hashing costs least
_LENGTH_BYTES = 8
_THREADS = 4


def fingerprint(model_dir: Path) -> str:
    """Return 32 hex digits that follow from config.json and every byte of the weights that are loaded.

    A quantizer's settings beside config.json count too. The weights' digest is XXH3 of 128 bits. It takes
    0.09 s for 540 MB in memory (BLAKE2b 1.3 s), else the time of reading the disk; loading then finds the
    files in memory. Raises SetupError when a file is missing or cut short.
    """
    files = weight_files(model_dir)
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"pdserve-model")
    try:
        _add(digest, (model_dir / CONFIG).read_bytes())
        for path in settings_files(model_dir):
            _add(digest, path.read_bytes())
        # reading and hashing both let other threads run
        with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
            for path, content in zip(files, pool.map(_digest, files), strict=True):
                _add(digest, path.name.encode())
                _add(digest, content)
    except OSError as error:
        raise SetupError(f"cannot read the model {model_dir}: {error}") from error
    return digest.hexdigest()


def _digest(path: Path) -> bytes:
    """Hash the whole file, header and all."""
    if path.suffix != ".gguf":
        read_header(path)  # refuses a damaged file before it is read to its end
    state, chunk = xxhash.xxh3_128(), memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(chunk):
            state.update(chunk[:num_bytes])
    digest: bytes = state.digest()
    return digest


def _add(digest: "hashlib.blake2b", part: bytes) -> None:
    # The length keeps two parts from being read as one.
    digest.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
    digest.update(part)
