"""The steps by which a GPU's memory is measured; a CPU runs the same ones."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from common.engine.attention.backend import AttentionBackend
from common.engine.batch import Batch
from common.engine.build import Engine
from common.engine.gpu_trial import GpuTrial, num_trial_blocks, run_largest_steps
from common.engine.limits import Limits
from common.engine.memory.block_pool import BlockPool
from common.engine.memory.gpu_share import GpuRoom
from common.engine.memory.worker_share import WorkerShare
from common.engine.model_runner import TokenModel
from pdserve.errors import SetupError
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


def out_of_memory(backend: AttentionBackend) -> TokenModel:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB")


def test_steps_that_do_not_fit_are_refused_with_a_remedy(engine: Engine) -> None:
    config, cpu = engine_config(max_batch_tokens=48), torch.device("cpu")
    trial = GpuTrial(engine.spec, config, cpu, out_of_memory, engine.pool.block_size)
    with pytest.raises(SetupError, match=r"steps of 48 tokens .* the GPU's memory") as caught:
        trial.measure(GpuRoom(2**30, 2**30, 0, WorkerShare()))
    assert caught.value.remedy.endswith("or lower engine.max_batch_tokens")
