"""Names that no source may use: code execution from data, and clocks that jump."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.unit.repository.sources import ROOT, modules, packages

PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "jsonpickle", "joblib"}
BUILTINS = {"eval", "exec"}
CALLS = {
    "time.time",  # jumps when the clock is set; time.monotonic does not
    "time.time_ns",
    "torch.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
}
_LAST_NAMES = {call.rpartition(".")[2] for call in CALLS}

# in every module that has one of them
WORDS = rf"\b({'|'.join([*PICKLES, *BUILTINS, *_LAST_NAMES, 'shell'])})\b"
ALLOWED = {
    # numba's compiled code has no other form; the files belong to our user, and no peer's bytes
    # reach them
    "common/engine/cpu/kernel_cache.py": ["pickle"],
}


def offences(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (name for name in names if name.partition(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.partition(".")[0] in PICKLES:
                yield node.module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if name in CALLS)
        elif isinstance(node, ast.Attribute) and node.attr in _LAST_NAMES:
            # to unparse each attribute of the tree takes seconds
            yield from CALLS & {ast.unparse(node)}
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            yield "shell="


def test_nothing_of_ours_does_any_of_it() -> None:
    found = {
        path: names
        for path, module in modules(*packages(), ROOT / "tests", having=WORDS)
        if (names := list(offences(module)))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal",
        "from cloudpickle import dumps",
        "import time\ndeadline_s = time.time() + 5",
        "from time import time",
        "clock = time.time",
        "eval('1')",
        "run = exec",
        "import torch\ntorch.load('x')",
        "yaml.load(text, yaml.Loader)",
        "from yaml import unsafe_load",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_each_of_them_would_be_found(source: str) -> None:
    assert list(offences(ast.parse(source)))
    assert re.search(WORDS, source)


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "time.monotonic()", "yaml.safe_load(x)", "json.load(f)", "import time"],
)
def test_what_only_looks_like_it_is_left_alone(source: str) -> None:
    assert not list(offences(ast.parse(source)))
