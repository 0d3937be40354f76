from pathlib import Path

import pytest

from common.cgroup import CgroupTree
from common.engine.build import build_engine
from common.engine.memory.host_budget import check_memory
from pdserve.errors import SetupError
from tests.unit.common.cgroup_trees import GIB, v2
from tests.unit.common.engine.tiny_models import engine_config, save_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def container(tmp_path: Path) -> CgroupTree:
    """2 GiB, of which 0.5 are used."""
    files = {"memory.max": str(2 * GIB), "memory.current": str(GIB // 2)}
    return v2(tmp_path / "groups", "/", files)


@pytest.mark.parametrize("kv_cache_gib", [0.5, 1.05])
def test_what_fits_the_container_passes(
    llama: Path, container: CgroupTree, kv_cache_gib: float
) -> None:
    check_memory(llama, engine_config(kv_cache_gib=kv_cache_gib), None, container)


def test_what_does_not_fit_is_named_with_limit_and_remedy(
    llama: Path, container: CgroupTree
) -> None:
    # 1.5 available less 0.1, 0.3 for libraries, next to nothing for weights
    with pytest.raises(SetupError) as caught:
        check_memory(llama, engine_config(kv_cache_gib=1.125), None, container)
    assert "engine.kv_cache_gib 1.125 does not fit" in str(caught.value)
    assert f"1.50 available of 2.00, limited by {container.root}/memory.max" in str(caught.value)
    assert caught.value.remedy == (
        "set engine.kv_cache_gib to 1.10 or less, start fewer workers, "
        "or raise the container's memory limit"
    )


def test_a_worker_keeps_to_its_share(llama: Path, container: CgroupTree) -> None:
    share = 3 * GIB // 4
    check_memory(llama, engine_config(kv_cache_gib=0.4), share, container)
    with pytest.raises(SetupError, match=r"may have 0\.75 GiB") as caught:
        check_memory(llama, engine_config(kv_cache_gib=0.5), share, container)
    assert "set engine.kv_cache_gib to 0.45 or less" in caught.value.remedy


def test_where_not_even_the_weights_fit_no_smaller_kv_memory_is_advised(llama: Path) -> None:
    with pytest.raises(SetupError) as caught:
        build_engine(llama, engine_config(), num_threads=1, memory_bytes=GIB // 4)
    assert caught.value.remedy.startswith("start fewer workers")
