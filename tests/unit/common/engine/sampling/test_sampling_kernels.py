"""Adjusted and truncated logits are those of `transformers`' processors, by both sets of kernels."""

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from common.engine.cpu import sampling as cpu_sampling
from common.engine.sampling import torch_kernels
from common.engine.sampling.options import Adjustments, Truncation
from common.messages import SamplingParams
from tests.examples import examples
from tests.unit.common.engine.sequences import NO_EOS, make_sequence

BOTH = pytest.mark.parametrize(
    "kernels", [torch_kernels, cpu_sampling], ids=lambda module: module.__name__.split(".")[-2]
)
seeded = settings(deadline=None, derandomize=True, max_examples=examples(25))
INF = float("inf")


def random_logits(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def truncation(
    *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Truncation:
    """Make the options of one row."""
    return Truncation(
        np.array([temperature]), np.array([top_k]), np.array([top_p]), np.array([min_p])
    )


def allowed(kernels: ModuleType, logits: torch.Tensor, **options: float) -> list[int]:
    """The tokens of a single row that may still be drawn; the others are as they were."""
    out = logits.clone()[None]
    kernels.truncate(out, truncation(**options))  # type: ignore[arg-type]
    kept = out[0] > -INF
    assert torch.equal(out[0][kept], logits[kept])
    tokens: list[int] = kept.nonzero()[:, 0].tolist()
    return tokens


def allowed_by_transformers(logits: torch.Tensor, **options: float) -> list[int]:
    kinds = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    asked = [name for name in kinds if options.get(name, off[name]) != off[name]]
    warpers = LogitsProcessorList([kinds[name](options[name]) for name in asked])
    scores = warpers(torch.zeros(1, 1, dtype=torch.long), logits.double()[None])
    tokens: list[int] = (scores[0] > -INF).nonzero()[:, 0].tolist()
    return tokens


@BOTH
@seeded
@given(
    vocab=st.sampled_from([1, 2, 15, 16, 17, 300, 1500]),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.25, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 1200]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_the_same_tokens_may_be_drawn(
    kernels: ModuleType, vocab: int, seed: int, **options: float
) -> None:
    logits = random_logits(1, vocab, seed)[0]
    assert allowed(kernels, logits, **options) == allowed_by_transformers(logits, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 50},
        {"top_k": 1024},
        {"top_k": 1025},
        {"top_k": 3000, "top_p": 0.7},
        {"top_p": 0.95},
        {"top_p": 0.3, "temperature": 50.0},
    ],
    ids=str,
)
def test_a_large_vocabulary_is_cut_at_the_same_place(options: dict[str, float]) -> None:
    for seed in range(4):
        logits = random_logits(1, 20_011, seed)[0]
        kept = allowed(cpu_sampling, logits, **options)
        assert kept == allowed_by_transformers(logits, **options)
        assert kept == allowed(torch_kernels, logits, **options)


@BOTH
def test_of_equals_at_the_border_all_stay(kernels: ModuleType) -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, -1.0, 2.0])
    assert allowed(kernels, logits, top_k=2) == [1, 2, 3, 5]
    assert allowed(kernels, logits, top_p=0.6) == [1, 2, 3, 5]
    assert allowed(kernels, torch.zeros(100), top_k=1) == list(range(100))


@BOTH
def test_what_was_forbidden_before_stays_so_and_fills_no_place(kernels: ModuleType) -> None:
    logits = torch.tensor([-INF, 1.0, -INF, 0.0, -1.0, -2.0])
    assert allowed(kernels, logits, top_k=2) == [1, 3]
    assert allowed(kernels, logits, top_k=5) == [1, 3, 4, 5]
    assert allowed(kernels, logits, top_p=1e-9) == [1]
    assert allowed(kernels, logits) == [1, 3, 4, 5]


@BOTH
def test_numbers_of_any_size_are_told_apart(kernels: ModuleType) -> None:
    logits = torch.tensor([3e38, -3e38, 1e-45, 0.0, -1e-45, 1e-20, -1.0])
    order = [0, 5, 2, 3, 4, 6, 1]
    for k in range(1, 8):
        assert sorted(allowed(kernels, logits, top_k=k)) == sorted(order[:k])


@BOTH
def test_each_row_has_its_own_options(kernels: ModuleType) -> None:
    logits = random_logits(6, 200)
    ks, ps = [0, 1, 5, 0, 9, 0], [1.0, 1.0, 0.5, 0.5, 1.0, 0.01]
    together = logits.clone()
    kernels.truncate(together, Truncation(np.ones(6), np.array(ks), np.array(ps), np.zeros(6)))
    for row, k, p, cut in zip(logits, ks, ps, together, strict=True):
        kept = (cut > -INF).nonzero()[:, 0].tolist()
        assert kept == allowed_by_transformers(row, top_k=k, top_p=p)


def adjusted(
    kernels: ModuleType,
    logits: torch.Tensor,
    prompt: list[int],
    outputs: list[int],
    **options: object,
) -> torch.Tensor:
    sampling = SamplingParams(0.0, 0, 99, **options)  # type: ignore[arg-type]
    seq = make_sequence(prompt, sampling)
    for token_id in outputs:
        seq.append(token_id, NO_EOS)
    out: torch.Tensor = kernels.adjust(logits, [1], Adjustments.of([seq]))
    return out[0]


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_is_penalised_as_transformers_does(
    kernels: ModuleType, dtype: torch.dtype, penalty: float
) -> None:
    logits, prompt, outputs = random_logits(2, 60).to(dtype), [3, 3, 9, 17], [17, 40, 40]
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([[*prompt, *outputs]]), logits[1:].float())[0]
    found = adjusted(kernels, logits, prompt, outputs, repetition_penalty=penalty)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@BOTH
def test_presence_and_frequency_count_the_output_alone(kernels: ModuleType) -> None:
    logits = random_logits(2, 60)
    expected = logits[1].clone()
    expected[17] -= 0.5 + 0.25
    expected[40] -= 0.5 + 3 * 0.25
    outputs = [40, 17, 40, 40]
    found = adjusted(
        kernels, logits, [3, 17, 40], outputs, presence_penalty=0.5, frequency_penalty=0.25
    )
    torch.testing.assert_close(found, expected)


@BOTH
def test_bias_comes_before_penalties_as_in_transformers(kernels: ModuleType) -> None:
    logits, biases = random_logits(2, 60), {3: 5.0, 9: -100.0, 20: 100.0}
    processors = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[token], value] for token, value in biases.items()]),
            RepetitionPenaltyLogitsProcessor(1.7),
        ]
    )
    expected = processors(torch.tensor([[3, 3, 9, 17]]), logits[1:].clone())[0]
    asked = tuple(biases.items())
    found = adjusted(kernels, logits, [3, 3, 9], [17], logit_bias=asked, repetition_penalty=1.7)
    torch.testing.assert_close(found, expected)
