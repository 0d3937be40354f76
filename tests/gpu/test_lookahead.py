"""Lookahead decode on the device: launches do not wait, and the text is unchanged."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.config import Backend
from common.engine.attention.flash import PAGE
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.device_copy import DeviceCopies
from common.engine.model_runner import ModelRunner
from common.messages import SamplingParams
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, make_engine, save_model
from tests.unit.decode_worker.driven_engine import EOS, DrivenEngine

pytestmark = pytest.mark.gpu

_A_SECOND = 2_000_000_000  # cycles, about a second

PLAIN = SamplingParams(0.0, 0, 40)
OPTIONS: list[dict[str, object]] = [
    {},
    {"temperature": 0.9},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 20},
    {"temperature": 0.7, "min_p": 0.05},
    {"temperature": 0.9, "max_tokens": 1},
    {"temperature": 0.9, "repetition_penalty": 1.2},
]


def build(folder: Path, dtype: str, backend: Backend, block_size: int, kv: str = "auto") -> Engine:
    """Build an engine with more blocks than a DrivenEngine uses."""
    config = engine_config(
        num_blocks=80,
        block_size=block_size,
        dtype=dtype,
        backend=backend,
        device="cuda",
        max_num_seqs=6,
        kv_cache_dtype=kv,
    )
    return make_engine(folder, config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama", eos_token_id=list(EOS))


@pytest.fixture(scope="module")
def exact(folder: Path) -> Engine:
    return build(folder, "float32", "reference", 16)


@pytest.fixture(scope="module")
def fast(folder: Path) -> Engine:
    return build(folder, "bfloat16", "flash", PAGE)


def in_step(engine: Engine) -> Engine:
    """Return the same engine with lookahead off: every step is waited for."""
    runner = engine.runner
    waiting = ModelRunner(
        runner._model, runner._block_size, runner._eos_token_ids, runner._mask_filler
    )
    return replace(engine, runner=waiting)


def asked(index: int, **changes: object) -> tuple[list[int], SamplingParams]:
    prompt = random.Random(index).choices(range(VOCAB), k=1 + 2 * index)
    options = OPTIONS[index % len(OPTIONS)] | changes
    return prompt, replace(PLAIN, seed=index, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("preemption", ["swap", "recompute"])
def test_whatever_happens_the_text_is_that_of_an_engine_in_step(
    exact: Engine, preemption: str
) -> None:
    """Requests arrive one by one, end in every way, are cancelled and preempted."""
    expected = []
    for index in range(24):
        alone = DrivenEngine(in_step, engine=exact)
        alone.submit("r", *asked(index))
        alone.finish()
        expected.append(alone.said["r", 0])
    driven = DrivenEngine(
        num_blocks=7,
        prior_tokens=1,
        preemption=preemption,  # type: ignore[arg-type]
        engine=exact,
    )
    for index in range(24):
        driven.submit(str(index), *asked(index))
        for _ in range(index % 5):
            driven.step()
        if index % 6 == 5 and str(index - 1) in driven.live:
            driven.cancel(str(index - 1))
    driven.finish()
    choices = driven.scheduler.preemption
    assert choices.num_swapped + choices.num_recomputed > 0
    for index, whole in enumerate(expected):
        said = driven.said[str(index), 0]
        assert said.tokens == whole.tokens[: len(said.tokens)]
        assert said == whole or not said.has_ended
    published = sum(len(said.tokens) for said in driven.said.values())
    assert driven.counters.output_tokens == published


def test_flash_says_the_same_a_step_ahead_and_in_step(fast: Engine) -> None:
    """Requests arrive at once and end by length: equal batches, since batch size affects a bit."""
    texts = []
    for driven in (DrivenEngine(engine=fast), DrivenEngine(in_step, engine=fast)):
        for index in range(6):
            prompt, sampling = asked(index, ignore_eos=True, max_tokens=10 + 5 * index)
            driven.submit(str(index), prompt, replace(sampling, repetition_penalty=1.0))
        driven.finish()
        texts.append(driven.said)
    assert texts[0] == texts[1]


def two_launches(engine: Engine) -> tuple[list[list[int]], bool]:
    """Launch a prompt's end and the step behind it, before the first is waited for.

    Returns their tokens, and True if the device still ran when both were launched. Raises if a
    launch makes the host wait for the device.
    """
    prompts = [[5 + index, 17, 3] for index in range(4)]
    sequences = [make_sequence(prompt, asked(index)[1]) for index, prompt in enumerate(prompts)]
    batches = []
    for seq in sequences:
        hold(engine.pool, seq, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches.append(engine.runner.launch(Batch(tuple(BatchEntry(seq, 3) for seq in sequences))))
        for seq in sequences:
            seq.num_computed_tokens = 3
        next_step = Batch(tuple(BatchEntry(seq, 1) for seq in sequences))
        batches.append(engine.runner.launch(next_step, batches[0]))
        # the mode does not see a wait for an event, nor one inside an allocation
        is_running = not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for seq in sequences:
            engine.pool.release(seq.block_table)
    tokens = [[one.token_id for one in launched.result() if one] for launched in batches]
    return tokens, is_running


@pytest.mark.parametrize("kv", ["auto", "fp8"])
def test_a_launch_does_not_wait_for_the_device(folder: Path, kv: str) -> None:
    engine = build(folder, "bfloat16", "flash", PAGE, kv)
    expected, _ = two_launches(engine)  # the first call also loads kernels
    torch.cuda._sleep(_A_SECOND)
    assert two_launches(engine) == (expected, True)
    assert all(len(tokens) == 4 for tokens in expected)


def test_samples_are_copied_while_the_device_goes_on() -> None:
    wait = DeviceCopies().start(torch.arange(6, device="cuda").view(2, 3))
    torch.cuda._sleep(_A_SECOND)
    assert wait().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not torch.cuda.current_stream().query()


def test_a_step_that_samples_nothing_can_be_waited_for() -> None:
    assert DeviceCopies().start(torch.zeros(2, 0, device="cuda"))().tolist() == [[], []]
