import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.repository.sources import GENERATED, ROOT

PROTOS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))
SCRIPTS = Path(sys.executable).parent


def generate(out: Path) -> None:
    """What `make proto` runs, into another folder."""
    plugins = [
        f"--plugin=protoc-gen-{name}={SCRIPTS / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    typed = [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto"]
    subprocess.run(
        [*command, *plugins, *outputs, *typed, *PROTOS],
        cwd=ROOT,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},  # the generator's own
    )


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if "_pb2" in path.name and path.is_file()]
    return {path.name: path.read_text("utf-8") for path in files}


def test_the_committed_stubs_are_what_the_protos_generate(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh, committed = contents(tmp_path / "pdserve" / "v1"), contents(GENERATED)
    assert len(fresh) == 4 * len(PROTOS) > 0
    assert sorted(fresh) == sorted(committed)
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, "run `make proto`"


def test_a_changed_proto_would_be_seen(tmp_path: Path) -> None:
    generate(tmp_path)
    stub = tmp_path / "pdserve" / "v1" / "worker_pb2.pyi"
    stub.write_text(stub.read_text().replace("prefill_worker", "prefiller"))
    assert contents(tmp_path / "pdserve" / "v1") != contents(GENERATED)


def test_buf_finds_nothing_to_complain_about() -> None:
    buf = SCRIPTS / "buf"
    if not buf.exists():
        pytest.skip("the package buf-bin is not installed")
    result = subprocess.run(
        [str(buf), "lint"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_proto_folder_is_no_package() -> None:
    assert not list((ROOT / "proto").rglob("*.py"))
