import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.patience import WITHIN_S
from tests.unit.repository.sources import ROOT, packages

FOLDERS = [*packages(), *(ROOT / name for name in ("proto", "docs", "scripts", "tests"))]
NEEDED = {
    "proto/pdserve/v1/worker.proto",
    "proto/baseline.binpb",
    "pdserve/v1/worker_pb2.pyi",
    "pdserve/py.typed",
    "docs/use/errors.md",
    "mkdocs.yml",
    "tests/integration/support/small.yaml",
    "tests/unit/repository/test_distribution.py",
    "deploy/ray/cluster.yaml",
    "constraints.txt",
    "setup.py",
    "buf.yaml",
    "scripts/make_sync_client.py",
    "Makefile",
    "LICENSE",
    "SECURITY.md",
}


def test_the_source_distribution_can_rebuild_the_stubs_and_run_the_tests(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(folder, tree / folder.name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tree)
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tree, capture_output=True, timeout=WITHIN_S, check=True
    )
    (archive,) = tmp_path.glob("pdserve-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert names >= NEEDED
    assert not [name for name in names if name.endswith(".pyc")]
