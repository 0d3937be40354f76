"""Deployments of real processes that tests share: two for the whole suite, one at a time."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from common.cache_dir import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from tests.integration.support.processes import Served, serving
from tests.patience import DEPLOYMENT_S

MODEL = "smollm2-135m"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who shares a deployment runs after all others, together: it is up no longer than it is needed.

    Whoever starts one has the time for that.
    """
    asks = {item: set(getattr(item, "fixturenames", ())) for item in items}
    items.sort(key=lambda item: ("shared" in asks[item], "served_float32" in asks[item]))
    for item in items:
        if "shared" in asks[item]:
            item.add_marker("deployment")
        if item.get_closest_marker("deployment") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(DEPLOYMENT_S))


@pytest.fixture(scope="session", autouse=True)
def _logs_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers of tests do not push the developer's own logs out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def model() -> ModelSource:
    """The default model, fetched if it is not in the cache."""
    return resolve_model(MODEL, default_cache_dir(), NoProgress())


@pytest.fixture(scope="session")
def shared() -> Iterator[ExitStack]:
    """Holds the shared deployment that runs; the next one stops it first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def served(model: ModelSource, shared: ExitStack) -> Served:
    """1 prefill and 1 decode worker, bfloat16, KV memory for about 6,000 tokens, OpenAI's API."""
    shared.close()
    flags = ("--config", "tests/integration/support/small.yaml", "--openai-port", "0")
    return shared.enter_context(serving(model.name, *flags))


@pytest.fixture(scope="session")
def served_float32(model: ModelSource, shared: ExitStack) -> Served:
    """1 prefill and 1 decode worker in float32, where text does not depend on who shares a batch.

    Every prompt travels. Roles may have been flipped and workers replaced by whoever came before.
    """
    shared.close()
    flags = ("--dtype", "float32", "--policy", "least_loaded")
    return shared.enter_context(serving(model.name, *flags))
