"""Log-probabilities are those of `transformers`' logits, of outputs and prompts, however prompts are cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.sampling.logprobs import score
from common.messages import SamplingParams, TokenLogprobs
from tests.unit.common.engine.sequences import NO_EOS, hold, make_decoding, make_sequence
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    load_reference,
    make_engine,
    save_model,
)

PROMPT = [(7 * i + 3) % VOCAB for i in range(20)]
ASKING = SamplingParams(0.0, 0, max_tokens=5, logprobs=3, prompt_logprobs=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module", params=["auto", "off"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Engine:
    return make_engine(folder, engine_config(fusion=request.param))


def check(entries: list[TokenLogprobs], expected: torch.Tensor, tokens: list[int], k: int) -> None:
    """Compare with rows of log-probabilities, one for each token."""
    assert len(entries) == len(tokens) == len(expected)
    for entry, row, token in zip(entries, expected, tokens, strict=True):
        top = row.topk(k)
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert list(entry.top_token_ids) == top.indices.tolist()
        assert list(entry.top_logprobs) == pytest.approx(top.values.tolist(), abs=1e-3)


def expected_logprobs(folder: Path, tokens: list[int]) -> torch.Tensor:
    """Return [len(tokens) - 1, vocab]: log-probabilities of each token but the first."""
    reference: Any = load_reference(folder)
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens])).logits[0, :-1]
    return torch.log_softmax(logits.double(), dim=-1)


@pytest.mark.parametrize("chunk", [1, 3, 16, 20])
def test_prompt_and_output_are_scored(engine: Engine, folder: Path, chunk: int) -> None:
    seq, other = (hold(engine.pool, make_sequence(PROMPT, s), 30) for s in (ASKING, None))
    scores: list[TokenLogprobs] = []
    while not seq.is_finished:
        # the other's rows lie between this one's
        entries = [BatchEntry(s, min(chunk, s.num_uncomputed_tokens)) for s in (other, seq)]
        samples = engine.runner.run(Batch(tuple(entries)))
        for entry, found in zip(entries, samples, strict=True):
            entry.seq.num_computed_tokens += entry.num_tokens
            if found is not None:
                entry.seq.append(found.token_id, NO_EOS)
        if samples[1] is not None:
            assert samples[1].logprobs is not None
            assert samples[0] is not None
            assert samples[0].logprobs is None
            scores.append(samples[1].logprobs)
    expected = expected_logprobs(folder, seq.token_ids)
    assert seq.prompt_logprobs is not None
    check(seq.prompt_logprobs, expected[:19], PROMPT[1:], 4)
    check(scores, expected[19:], seq.token_ids[20:], 3)
    assert other.prompt_logprobs is None
    for one in (seq, other):
        engine.pool.release(one.block_table)


def test_what_is_known_is_not_scored_again(engine: Engine) -> None:
    """A preempted prompt is computed once more."""
    seq = hold(engine.pool, make_sequence(PROMPT, replace(ASKING, prompt_logprobs=0)))
    for num_tokens in (8, 20):
        engine.runner.run(Batch((BatchEntry(seq, num_tokens),)))
    assert seq.prompt_logprobs is not None
    assert len(seq.prompt_logprobs) == 19
    assert not seq.needs_prompt_logits
    engine.pool.release(seq.block_table)


def test_only_positions_before_a_wanted_token_are_scored() -> None:
    seq = make_sequence(PROMPT, ASKING)
    assert list(BatchEntry(seq, 5).scored_positions) == [1, 2, 3, 4, 5]
    assert list(BatchEntry(seq, 20).scored_positions) == list(range(1, 20))
    assert not BatchEntry(make_sequence(PROMPT), 20).scored_positions
    assert not BatchEntry(make_decoding(3, 4), 1).scored_positions
    assert not BatchEntry(make_sequence([5], ASKING), 1).scored_positions


def test_a_vocabulary_smaller_than_asked_gives_all_of_it() -> None:
    (entry,) = score(torch.zeros(1, 4), [2], [20])
    assert sorted(entry.top_token_ids) == [0, 1, 2, 3]
    assert entry.logprob == pytest.approx(-1.3862944)


def test_many_rows_are_scored_as_one_is() -> None:
    logits = torch.randn(150, 30, generator=torch.Generator().manual_seed(0))
    tokens, counts = [i % 30 for i in range(150)], [i % 5 for i in range(150)]
    found = score(logits, tokens, counts)
    for row, (token, count) in enumerate(zip(tokens, counts, strict=True)):
        assert found[row] == score(logits[row : row + 1], [token], [count])[0]


def test_a_row_that_is_alone_has_the_same_bits_on_two_threads() -> None:
    logits = torch.randn(40, 49_152, generator=torch.Generator().manual_seed(1)) * 3
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = score(logits, list(range(40)), [2] * 40)
        alone = [score(logits[row : row + 1], [row], [2])[0] for row in range(40)]
    finally:
        torch.set_num_threads(num_threads)
    assert alone == together
