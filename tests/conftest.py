"""Settings of all tests."""

import gc
import os

from hypothesis import settings

from tests.examples import examples

# before torch is imported, and for children: threads that share a tiny product wait for each other in a
# loop, which makes a step of `transformers` cost ten times as much of the CPU; engines set their own number
os.environ.setdefault("OMP_NUM_THREADS", "1")
# kernels have several threads all the same: one that waits for another must leave it the core, which
# processes of other tests share; their waits take five times the CPU of the work otherwise
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# the same examples on each machine, however long one takes there
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=examples(50))
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Spare the collector the objects of all modules, which live as long as the process."""
    gc.freeze()
