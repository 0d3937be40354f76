import pytest

from common.engine.build import Engine
from common.engine.memory.host_swap import HostSwap
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model

TOKENS = 20
BYTES = TOKENS * 2 * 2 * 2 * 16 * 4  # keys and values of 2 layers and 2 heads of 16 in float32


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return make_engine(save_model(tmp_path_factory.mktemp("llama"), "llama"), engine_config())


@pytest.mark.parametrize(
    ("budget", "usable", "is_saved"),
    [(BYTES, BYTES, True), (BYTES - 1, BYTES, False), (BYTES, BYTES - 1, False)],
)
def test_a_copy_needs_the_budget_and_the_memory(
    engine: Engine, budget: int, usable: int, is_saved: bool
) -> None:
    swap = HostSwap(engine.cache, engine.prefix, budget, engine.costs, lambda: usable)
    seq = make_sequence(TOKENS, computed=TOKENS)
    hold(engine.pool, seq)
    assert swap.save(seq) is is_saved
    assert swap.num_bytes == swap.num_bytes_of(seq) == is_saved * BYTES
    swap.drop(seq)
    assert swap.num_bytes == 0
    engine.pool.release(seq.block_table)
    engine.pool.check_integrity([])
