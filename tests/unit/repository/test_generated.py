import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import WITHIN_S
from tests.unit.repository.sources import GENERATED, ROOT

PROTOS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))
BASELINE = ROOT / "proto" / "baseline.binpb"
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `make proto` into another folder, and return the stubs' folder."""
    out = tmp_path_factory.mktemp("generated")
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
        timeout=WITHIN_S,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},  # a warning of the generator itself
    )
    return out / "pdserve" / "v1"


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if "_pb2" in path.name and path.is_file()]
    return {path.name: path.read_text("utf-8") for path in files}


def test_the_committed_stubs_are_what_the_protos_generate(generated: Path) -> None:
    fresh, committed = contents(generated), contents(GENERATED)
    assert len(fresh) == 4 * len(PROTOS) > 0
    assert sorted(fresh) == sorted(committed)
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, "run `make proto`"


def test_a_changed_proto_would_be_seen(generated: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(generated, tmp_path / "changed")
    stub = changed / "worker_pb2.pyi"
    stub.write_text(stub.read_text().replace("prefill_worker", "prefiller"))
    assert contents(changed) != contents(GENERATED)


def buf(*args: str, folder: Path = ROOT) -> tuple[int, str]:
    """Return the exit code and output of a buf command."""
    command = [str(SCRIPTS / "buf"), *args]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_buf_finds_nothing_to_complain_about() -> None:
    assert buf("lint") == (0, "")  # lint also reports undocumented messages, fields and rpcs


def test_the_public_api_is_compatible_with_the_last_release_s() -> None:
    assert buf("breaking", "--against", str(BASELINE)) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("string model = 2;", "string model_name = 2;", "model_name"),
        ("sint32 priority = 8;", "uint32 priority = 8;", "changed type"),
        ("  repeated string stop = 4;", "", "was deleted"),
        ("rpc Cancel(", "rpc Stop(", "Cancel"),
        ("// Names the request in Cancel", "", "comment"),
    ],
)
def test_what_would_break_a_client_is_found(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    file = tmp_path / "proto" / "pdserve" / "v1" / "inference.proto"
    text = file.read_text("utf-8")
    assert old in text
    if complaint == "comment":
        lines = [line for line in text.splitlines(keepends=True) if old not in line]
        file.write_text("".join(lines), "utf-8")
        code, said = buf("lint", folder=tmp_path)
    else:
        file.write_text(text.replace(old, new), "utf-8")
        code, said = buf("breaking", "--against", str(BASELINE), folder=tmp_path)
    assert code != 0
    assert complaint in said


@pytest.mark.parametrize(("suffix", "unit"), [("_us", "microseconds"), ("_s", "seconds")])
def test_durations_say_their_unit_or_their_message_does(suffix: str, unit: str) -> None:
    text = "".join((ROOT / path).read_text("utf-8") for path in PROTOS)
    commented = [
        (name, (about + comment).lower())
        for about, fields in re.findall(r"((?:^//.*\n)*)^message \w+ {\n((?:.+\n)*?)^}", text, re.M)
        for comment, name in re.findall(r"((?:^ +//.*\n)+)^ +\S+ (\w+) = ", fields, re.M)
        if name.endswith(suffix)
    ]
    assert commented
    assert [name for name, said in commented if unit not in said] == []


def test_the_proto_folder_is_no_package() -> None:
    assert not list((ROOT / "proto").rglob("*.py"))
