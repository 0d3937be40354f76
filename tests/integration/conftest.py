"""Fixtures that start real processes; each deployment serves a whole module."""

from collections.abc import Iterator

import pytest

from common.engine.weights.cache import default_cache_dir
from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import ModelSource, resolve_model
from tests.integration.processes import Served, serving

MODEL = "smollm2-135m"


@pytest.fixture(scope="session")
def model() -> ModelSource:
    """The default model, fetched if it is not in the cache."""
    return resolve_model(MODEL, default_cache_dir(), NoProgress())


@pytest.fixture(scope="module")
def served(model: ModelSource) -> Iterator[Served]:
    """One prefill and one decode worker, bfloat16, with KV memory for about 6,000 tokens."""
    with serving(model.name, "--config", "tests/integration/small.yaml") as deployment:
        yield deployment
