"""The steps by which a GPU's memory is measured; a CPU runs the same ones."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from common.engine.batch import Batch
from common.engine.build import Engine
from common.engine.gpu_trial import num_trial_blocks, run_largest_steps
from common.engine.limits import Limits
from common.engine.memory.block_pool import BlockPool
from tests.unit.common.engine.tiny_models import engine_config, make_engine, save_model


@dataclass
class Watched:
    """Runner that notes what each step runs."""

    inner: Any
    steps: list[tuple[int, int]] = field(default_factory=list)  # sequences, tokens

    def run(self, batch: Batch) -> object:
        self.steps.append((len(batch.entries), batch.num_tokens))
        return self.inner.run(batch)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return make_engine(save_model(tmp_path_factory.mktemp("llama"), "llama"), engine_config())


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        (Limits(8, 100), [(1, 100), (8, 8)]),
        (Limits(64, 512), [(2, 512), (64, 64)]),  # longer than the context of 512 less one
        (Limits(1, 2), [(1, 2), (1, 1)]),
    ],
)
def test_a_whole_step_of_prompt_and_a_whole_batch_run_and_leave_nothing(
    engine: Engine, limits: Limits, steps: list[tuple[int, int]]
) -> None:
    size = engine.pool.block_size
    watched: Any = Watched(engine.runner)
    pool = BlockPool(num_trial_blocks(limits, size), size)
    run_largest_steps(watched, pool, limits, engine.spec.max_context_tokens)
    assert watched.steps == steps
    pool.check_integrity([])
