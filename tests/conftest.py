"""Settings of all tests."""

import gc

from hypothesis import settings

from tests.examples import examples

# the same examples on each machine, however long one takes there
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=examples(50))
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Spare the collector the objects of all modules, which live as long as the process."""
    gc.freeze()
