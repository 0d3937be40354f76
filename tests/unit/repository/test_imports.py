import json
import subprocess
import sys

import pytest

from tests.patience import WITHIN_S
from tests.unit.repository.sources import ROOT

ENGINE = {"torch", "transformers", "ray", "numba", "flash_attn"}
ROUTER = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "router").rglob("*.py"))
]


def loaded_by(*names: str) -> set[str]:
    """Return the top-level modules of a fresh process that imported these."""
    code = f"import {', '.join(names)}, json, sys; print(json.dumps(list(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def test_the_router_loads_nothing_of_the_engine() -> None:
    assert "router.app" in ROUTER
    loaded = loaded_by(*(name.removesuffix(".__init__") for name in ROUTER))
    assert {"router", "grpc", "tokenizers"} <= loaded
    assert loaded.isdisjoint(ENGINE)


@pytest.mark.parametrize("name", ["cli.main", "common.config", "common.rpc.worker_host"])
def test_what_every_process_starts_with_stays_light(name: str) -> None:
    assert loaded_by(name).isdisjoint(ENGINE)
