"""The engine's tokens are those of `transformers`, however prompts are cut and mixed."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.ragged import RaggedInputs
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    poison,
    save_model,
)

PROMPT = random.Random(3).choices(range(VOCAB), k=20)
NEW_TOKENS = 6


class Model:
    """Model folder, and the tokens of `transformers`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference: Any = load_reference(folder)
        self.expected = continue_greedily(self.reference, PROMPT, NEW_TOKENS)

    def engine(self, **changes: object) -> Engine:
        engine = make_engine(self.folder, engine_config(**changes))  # type: ignore[arg-type]
        poison(engine)
        return engine


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2", "mistral"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Mistral's window of 8 positions is shorter than the prompt."""
    return Model(save_model(tmp_path_factory.mktemp("models"), request.param))


@pytest.fixture(scope="module", params=["auto", "off"])
def engine(request: pytest.FixtureRequest, model: Model) -> Engine:
    return model.engine(fusion=request.param)


def test_the_reference_is_lively(model: Model) -> None:
    """Equal tokens of a dull model would prove little."""
    assert len(set(model.expected)) >= 3


def test_every_way_to_cut_the_prompt_gives_the_same_tokens(engine: Engine, model: Model) -> None:
    for chunk in range(1, len(PROMPT) + 1):
        assert continuations(engine, [PROMPT], NEW_TOKENS, chunk) == [model.expected], chunk


@pytest.mark.parametrize("budget", [5, 16, 200])
def test_mixed_batches_give_what_each_prompt_gives_alone(
    engine: Engine, model: Model, budget: int
) -> None:
    """Short and long prompts run side by side, so that some decode while others are still cut."""
    prompts = [PROMPT[:1], PROMPT[3:], PROMPT * 3, PROMPT[:16]]
    expected = [continue_greedily(model.reference, prompt, NEW_TOKENS) for prompt in prompts]
    assert continuations(engine, prompts, NEW_TOKENS, budget) == expected


def test_logits_are_those_of_transformers(engine: Engine, model: Model) -> None:
    seq = hold(engine.pool, make_sequence(PROMPT))
    for num_tokens in (7, 13):
        inputs = RaggedInputs.from_batch(Batch((BatchEntry(seq, num_tokens),)), 16)
        logits = engine.runner.logits(inputs)
        seq.num_computed_tokens += num_tokens
    engine.pool.release(seq.block_table)
    with torch.inference_mode():
        expected = model.reference(torch.tensor([PROMPT])).logits[0, -1:]
    torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-4)


def test_changing_one_sequence_changes_no_others_logits_by_a_bit(engine: Engine) -> None:
    mixed = [(PROMPT, 20), (PROMPT[:9], 1), (PROMPT[4:], 7), (PROMPT[::-1], 1)]
    expected = last_logits(engine, mixed)
    for index, (prompt, num_tokens) in enumerate(mixed):
        other = [(token + 1) % VOCAB for token in prompt]
        changed = last_logits(engine, [*mixed[:index], (other, num_tokens), *mixed[index + 1 :]])
        differs = [not torch.equal(a, b) for a, b in zip(changed, expected, strict=True)]
        assert differs == [row == index for row in range(len(mixed))]


def last_logits(engine: Engine, work: list[tuple[list[int], int]]) -> torch.Tensor:
    """Logits [sequences, vocab] of one step that runs each prompt's last tokens, all at once."""
    sequences = [hold(engine.pool, make_sequence(prompt)) for prompt, _ in work]
    entries = []
    for seq, (prompt, num_tokens) in zip(sequences, work, strict=True):
        if first := len(prompt) - num_tokens:
            engine.runner.run(Batch((BatchEntry(seq, first),)))
            seq.num_computed_tokens = first
        entries.append(BatchEntry(seq, num_tokens))
    logits = engine.runner.logits(RaggedInputs.from_batch(Batch(tuple(entries)), 16))
    for seq in sequences:
        engine.pool.release(seq.block_table)
    return logits.clone()


@pytest.mark.parametrize(("block_size", "backend"), [(5, "reference"), (16, "reference")])
def test_block_size_and_backend_change_nothing(model: Model, block_size: int, backend: str) -> None:
    engine = model.engine(block_size=block_size, backend=backend)
    assert continuations(engine, [PROMPT, PROMPT[:3]], NEW_TOKENS, 6)[0] == model.expected


def test_a_step_in_the_middle_of_a_prompt_samples_nothing(engine: Engine) -> None:
    seq = hold(engine.pool, make_sequence(PROMPT))
    assert engine.runner.run(Batch((BatchEntry(seq, 8),))) == [None]
    engine.pool.release(seq.block_table)
