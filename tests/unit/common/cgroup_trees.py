"""Fake control groups: the files that a kernel would show, under a folder."""

from collections.abc import Mapping
from pathlib import Path

from common.cgroup import CgroupTree

GIB = 2**30
UNLIMITED_V1 = "9223372036854771712"


def make_tree(folder: Path, own: str, files: Mapping[str, str]) -> CgroupTree:
    """Make a tree: `own` is /proc/self/cgroup; `files` are contents by path below /sys/fs/cgroup."""
    tree = CgroupTree(folder / "cgroup", folder / "self")
    tree.root.mkdir(parents=True)
    tree.own.write_text(own)
    for name, content in files.items():
        file = tree.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    return tree


def v2(folder: Path, own: str, files: Mapping[str, str]) -> CgroupTree:
    """Make a tree with v2 alone; `own` is the group's path."""
    return make_tree(folder, f"0::{own}\n", {"cgroup.controllers": "cpu memory", **files})
