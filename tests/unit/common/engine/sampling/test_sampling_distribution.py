"""Tokens drawn under each option against the distribution of `transformers`, by chi-square tests."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from common.engine.sampling.sampler import Sample, sample
from common.engine.sequence import Sequence
from common.messages import SamplingParams
from tests.examples import examples
from tests.unit.common.engine.sequences import NO_EOS, make_sequence

VOCAB, DRAWS = 24, 6000
PROMPT, OUTPUTS = [3, 3, 9], [17, 5, 17]
PLAIN = SamplingParams(temperature=0.9, seed=0, max_tokens=99)
EOS = frozenset({1})
OPTIONS: dict[str, dict[str, object]] = {
    "temperature": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.1},
    "repetition_penalty": {"repetition_penalty": 1.8},
    "logit_bias": {"logit_bias": ((2, 1.5), (20, -3.0))},
    "min_tokens": {"min_tokens": 4},
    "all": {
        "top_k": 12,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 0.7,
        "logit_bias": ((2, 1.5), (20, -3.0)),
        "min_tokens": 4,
    },
}


def logits() -> torch.Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(4)) * 2


def asking(sampling: SamplingParams, seed: int) -> Sequence:
    seq = make_sequence(PROMPT, replace(sampling, seed=seed))
    for token_id in OUTPUTS:
        seq.append(token_id, NO_EOS)
    return seq


def draw(sampling: SamplingParams) -> torch.Tensor:
    """Count how often each token comes, over as many seeds."""
    sequences = [asking(sampling, seed) for seed in range(DRAWS)]
    samples = sample(logits().expand(DRAWS, -1).contiguous(), sequences, EOS)
    return torch.bincount(torch.tensor([one.token_id for one in samples]), minlength=VOCAB)


def expected_by_transformers(sampling: SamplingParams) -> torch.Tensor:
    """The distribution after all processors that `generate` would make, in its order."""
    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
        repetition_penalty=sampling.repetition_penalty,
        sequence_bias=[[[token], value] for token, value in sampling.logit_bias] or None,
        min_new_tokens=sampling.min_tokens,
        eos_token_id=sorted(EOS),
    )
    tiny = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=VOCAB))
    tiny._prepare_special_tokens(config, kwargs_has_attention_mask=True)
    processors = tiny._get_logits_processor(config, input_ids_seq_length=len(PROMPT))
    scores = processors(torch.tensor([[*PROMPT, *OUTPUTS]]), logits()[None].clone())
    return torch.softmax(scores[0].double(), dim=-1)


def chance_of_worse(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Pearson's chi-square test; rare tokens count together."""
    assert not counts[expected == 0].any(), "a token came that may not come"
    wanted = expected * counts.sum()
    is_rare = wanted < 5
    seen = torch.cat((counts[~is_rare], counts[is_rare].sum()[None])).double()
    wanted = torch.cat((wanted[~is_rare], wanted[is_rare].sum()[None]))
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2.0), statistic / 2))


@pytest.mark.parametrize("name", OPTIONS)
def test_tokens_come_as_often_as_transformers_would_draw_them(name: str) -> None:
    sampling = replace(PLAIN, **OPTIONS[name])  # type: ignore[arg-type]
    assert chance_of_worse(draw(sampling), expected_by_transformers(sampling)) > 1e-3


def test_presence_and_frequency_penalties_give_openai_s_distribution() -> None:
    sampling = replace(PLAIN, presence_penalty=0.8, frequency_penalty=0.6)
    scores = logits().double()
    scores[17] -= 0.8 + 2 * 0.6
    scores[5] -= 0.8 + 0.6
    assert chance_of_worse(draw(sampling), torch.softmax(scores / 0.9, dim=-1)) > 1e-3


def test_the_test_would_see_a_wrong_distribution() -> None:
    counts = draw(PLAIN)
    wrong = expected_by_transformers(replace(PLAIN, temperature=1.0))
    assert chance_of_worse(counts, wrong) < 1e-6


MIXED = [replace(PLAIN, seed=seed, **options) for seed, options in enumerate(OPTIONS.values())]  # type: ignore[arg-type]
MIXED += [replace(one, temperature=0.0, logprobs=3) for one in MIXED[:3]]
MIXED += [replace(PLAIN, temperature=0.0), replace(PLAIN, frequency_penalty=1.9, logprobs=0)]


@cache
def mixed_alone() -> tuple[torch.Tensor, list[Sequence], list[Sample]]:
    """Return rows, their sequences, and what each gets in a batch of its own."""
    rows = torch.randn(len(MIXED), 700, generator=torch.Generator().manual_seed(1))
    sequences = [asking(sampling, sampling.seed) for sampling in MIXED]
    alone = [sample(rows[i : i + 1], [sequences[i]], EOS)[0] for i in range(len(MIXED))]
    return rows, sequences, alone


@settings(deadline=None, derandomize=True, max_examples=examples(30))
@given(st.permutations(range(len(MIXED))), st.integers(1, len(MIXED)))
def test_a_request_gets_the_same_in_any_batch(order: list[int], batch_size: int) -> None:
    rows, sequences, alone = mixed_alone()
    chosen = order[:batch_size]
    together = sample(rows[chosen], [sequences[i] for i in chosen], EOS)
    assert [one.token_id for one in together] == [alone[i].token_id for i in chosen]
    asked = [MIXED[i].logprobs for i in chosen]
    assert [one.logprobs and len(one.logprobs.top_token_ids) for one in together] == asked


@pytest.mark.parametrize("sampling", MIXED, ids=str)
def test_state_that_grew_is_state_made_anew(sampling: SamplingParams) -> None:
    """State is made anew after a preemption, or on another worker."""
    rows = torch.randn(30, VOCAB, generator=torch.Generator().manual_seed(2))
    grown = asking(sampling, 5)
    for row in rows:
        anew = asking(sampling, 5)
        for token_id in grown.token_ids[anew.num_prompt_tokens + len(OUTPUTS) :]:
            anew.append(token_id, NO_EOS)
        (here,), (there,) = (sample(row[None], [seq], EOS) for seq in (grown, anew))
        assert here == there
        grown.append(here.token_id, NO_EOS)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_poisoned_row_with_options_harms_no_other(temperature: float) -> None:
    rows = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(3))
    everything = replace(PLAIN, temperature=temperature, logprobs=2, **OPTIONS["all"])  # type: ignore[arg-type]
    sequences = [asking(everything, seed) for seed in range(3)]
    clean = sample(rows, sequences, EOS)
    rows[1, 7] = float("nan")
    found = sample(rows, sequences, EOS)
    assert (found[0], found[2]) == (clean[0], clean[2])
    assert (found[1].is_finite, found[1].logprobs) == (False, None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_min_tokens_that_forbid_everything_do_no_harm(temperature: float) -> None:
    sampling = replace(
        PLAIN, temperature=temperature, min_tokens=9, stop_token_ids=tuple(range(VOCAB))
    )
    (found,) = sample(logits()[None], [asking(sampling, 0)], EOS)
    assert 0 <= found.token_id < VOCAB
    assert (found.is_finite, found.has_choice) == (True, False)
