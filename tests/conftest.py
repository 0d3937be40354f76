"""Settings of all tests."""

import gc

from hypothesis import settings

# the same examples on each machine, however long one takes there
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Spare the collector the objects of all modules, which live as long as the process."""
    gc.freeze()
