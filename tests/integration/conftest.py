"""Deployments of real processes that tests share: three in the whole suite, one at a time."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from tests.integration.support.processes import Served, folder_with_foreign_packages, serving
from tests.patience import DEPLOYMENT_S

MODEL = "smollm2-135m"
POISON = 12345  # of 49152 tokens
# fixtures that share a deployment, in the order in which their users run
_SHARED = ("served", "served_float32", "served_by_default")
# the only folders where the Makefile looks for deployments: to collect all tests takes long
_DEPLOYMENTS = [
    *(Path(__file__).parent / folder for folder in ("served", "clients")),
    Path(__file__).parents[1] / "faults",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the users of each shared deployment together, after all other tests.

    So it lives no longer than needed. The test that ends it is the last of them. Tests that start
    a deployment get the time for that.
    """
    asks = {item: set(getattr(item, "fixturenames", ())) for item in items}
    items.sort(key=lambda item: _place(item, asks[item]))
    for item in items:
        if "shared" in asks[item]:
            item.add_marker("deployment")
        if not item.get_closest_marker("deployment"):
            continue
        if item.path.parent not in _DEPLOYMENTS:
            raise pytest.UsageError(
                f"{item.nodeid} starts a deployment: move it to served/ or faults/"
            )
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(DEPLOYMENT_S))


def _place(item: pytest.Item, asks: set[str]) -> tuple[int, bool]:
    shared = [number for number, name in enumerate(_SHARED) if name in asks]
    return max(shared, default=-1), item.get_closest_marker("ends_shared") is not None


@pytest.fixture(scope="session", autouse=True)
def _logs_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the workers of tests from displacing the developer's own logs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def model() -> ModelSource:
    """Return the default model, fetched if it is not in the cache."""
    return resolve_model(MODEL, default_cache_dir(), NoProgress())


@pytest.fixture(scope="session")
def shared() -> Iterator[ExitStack]:
    """Yield the owner of the running shared deployment; the next deployment stops it first."""
    with ExitStack() as stack:
        yield stack


def _started(shared: ExitStack, *args: str, cwd: Path | None = None, **environment: str) -> Served:
    """Start the next shared deployment of the default model, with more in its environment."""
    shared.close()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return shared.enter_context(serving(MODEL, *args, cwd=cwd))


@pytest.fixture(scope="session")
def served(model: ModelSource, shared: ExitStack) -> Served:
    """Return 1 prefill and 1 decode worker: bfloat16, KV memory of 3,000 tokens, OpenAI's API.

    Its end waits ten minutes for running requests.
    """
    flags = ("--config", "tests/integration/support/small.yaml", "--openai-port", "0")
    return _started(shared, *flags, PDSERVE_DRAIN_TIMEOUT_S="600")


@pytest.fixture(scope="session")
def served_float32(model: ModelSource, shared: ExitStack) -> Served:
    """Return 1 prefill and 1 decode worker in float32, where text does not depend on the batch.

    Every prompt is handed off. A step that runs POISON raises. Earlier tests may have flipped
    roles and replaced workers.
    """
    flags = ("--dtype", "float32", "--policy", "least_loaded")
    return _started(shared, *flags, PDSERVE_FAILPOINTS=f"step_raises_on_token={POISON}")


@pytest.fixture(scope="session")
def state_by_default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the XDG_STATE_HOME of `served_by_default`, which keeps only its logs."""
    return tmp_path_factory.mktemp("state-by-default")


@pytest.fixture(scope="session")
def served_by_default(
    model: ModelSource,
    shared: ExitStack,
    state_by_default: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Served:
    """Return 1 prefill and 1 decode worker in bfloat16, under the default policy.

    It runs in a folder of foreign packages, and its Ray believes in two GPUs. A test may have
    replaced a worker.
    """
    environment = {"XDG_STATE_HOME": str(state_by_default), "PDSERVE_CLUSTER__NUM_GPUS": "2"}
    folder = folder_with_foreign_packages(tmp_path_factory.mktemp("foreign"))
    return _started(shared, "--dtype", "bfloat16", cwd=folder, **environment)
