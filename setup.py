"""Layout of the wheel: the server's packages lie in pdserve/_server, and are imported as that.

A checkout is unchanged, and so is an editable install. docs/adr/0012-the-wheel-has-one-package.md says why.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

HOME = "pdserve._server"
SERVER = (
    "benchmarks",
    "cli",
    "common",
    "decode_worker",
    "deploy",
    "prefill_worker",
    "router",
)
_IMPORT = re.compile(rf"^(\s*(?:from|import) )(?=(?:{'|'.join(SERVER)})\b)", re.MULTILINE)


class BuildPy(build_py):
    """Copy of the modules into the wheel, where imports of the server's packages name their home."""

    def build_module(
        self, module: str, module_file: str, package: str
    ) -> "tuple[str | Path, bool]":
        """Copy one module; return its file, and False if an earlier build's is up to date."""
        copied = super().build_module(module, module_file, package)
        if copied[1] and package.startswith(HOME):
            file = Path(copied[0])
            file.write_text(_IMPORT.sub(rf"\g<1>{HOME}.", file.read_text("utf-8")), "utf-8")
        return copied


def _packages(*roots: str) -> list[str]:
    return find_namespace_packages(include=[part for name in roots for part in (name, f"{name}.*")])


setup(
    packages=[*_packages("pdserve"), *(f"{HOME}.{name}" for name in _packages(*SERVER))],
    package_dir={f"{HOME}.{name}": name for name in SERVER},
    cmdclass={"build_py": BuildPy},
)
