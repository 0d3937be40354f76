"""Deployments of real processes that tests share: two in the whole suite, one at a time."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from tests.integration.support.processes import Served, serving
from tests.patience import DEPLOYMENT_S

MODEL = "smollm2-135m"
# the only folders where the Makefile looks for deployments: to collect all tests takes long
_DEPLOYMENTS = [
    *(Path(__file__).parent / folder for folder in ("served", "clients")),
    Path(__file__).parents[1] / "faults",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the users of each shared deployment together, after all other tests.

    So it lives no longer than needed. Tests that start a deployment get the time for that.
    """
    asks = {item: set(getattr(item, "fixturenames", ())) for item in items}
    items.sort(key=lambda item: ("shared" in asks[item], "served_float32" in asks[item]))
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


@pytest.fixture(scope="session")
def served(model: ModelSource, shared: ExitStack) -> Served:
    """Return 1 prefill and 1 decode worker: bfloat16, KV memory of 6,000 tokens, OpenAI's API."""
    shared.close()
    flags = ("--config", "tests/integration/support/small.yaml", "--openai-port", "0")
    return shared.enter_context(serving(model.name, *flags))


@pytest.fixture(scope="session")
def served_float32(model: ModelSource, shared: ExitStack) -> Served:
    """Return 1 prefill and 1 decode worker in float32, where text does not depend on the batch.

    Every prompt is handed off. Earlier tests may have flipped roles and replaced workers.
    """
    shared.close()
    flags = ("--dtype", "float32", "--policy", "least_loaded")
    return shared.enter_context(serving(model.name, *flags))
