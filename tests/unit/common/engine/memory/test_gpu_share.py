import pytest

from common.engine.memory.gpu_share import check_share
from pdserve.errors import SetupError

GIB = 2**30


def test_kv_memory_must_fit_into_the_share_of_a_gpu() -> None:
    check_share(0.5, 80 * GIB, 40.0)
    with pytest.raises(SetupError, match=r"kv_cache_gib 41 exceeds .*0\.5 of 80\.0 GiB"):
        check_share(0.5, 80 * GIB, 41.0)
