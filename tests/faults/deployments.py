"""Deployments under faults: a tiny model, whose steps take 20 ms by a failpoint."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.support.processes import Served, serving

FAILPOINTS = "slow_steps=*:0.02"
SETTINGS = {
    "PDSERVE_ENGINE__KV_CACHE_GIB": "0.02",
    "PDSERVE_ROUTER__WATCHDOG_S": "15",
    # a request may meet many faults here, and may wait for the restart on a slow machine
    "PDSERVE_ROUTER__MAX_WORKER_DEATHS": "1000",
    "PDSERVE_ROUTER__MAX_OUTAGE_S": "600",
    "PDSERVE_ROUTER__MAX_WAIT_S": "0",
}


@contextmanager
def serving_tiny(
    model: Path, failpoints: str, settings: Mapping[str, str]
) -> Iterator[tuple[Served, list[str]]]:
    """Yield 1 prefill and 2 decode workers, and the lines of their log so far.

    Its end is clean, and leaves no process.
    """
    log: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({**settings, "PDSERVE_FAILPOINTS": failpoints}).items():
            patch.setenv(name, value)
        flags = ("--dtype", "float32", "--decode", "2", "--policy", "least_loaded")
        with serving(str(model), *flags) as served:
            stderr = served.process.stderr
            assert stderr is not None
            # a full pipe would stop the router
            threading.Thread(target=lambda: log.extend(stderr), daemon=True).start()
            yield served, log
