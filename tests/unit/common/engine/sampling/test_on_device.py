"""Tokens sampled on the device are those that the host would sample; nothing waits for the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.ragged import Carried
from common.engine.sampling.on_device import sample_on_device
from common.engine.sampling.sampler import sample
from common.messages import Grammar, GrammarKind, SamplingParams
from tests.examples import examples
from tests.unit.common.engine.sequences import NO_EOS, make_decoding, make_sequence

GREEDY = SamplingParams(0.0, 0, 9)
OPTIONS: list[dict[str, float]] = [
    {},
    {"temperature": 0.8},
    {"temperature": 1e-9},
    {"temperature": 1.3, "top_k": 7},
    {"temperature": 0.7, "top_p": 0.6},
    {"temperature": 0.7, "min_p": 0.1, "top_k": 20},
    {"top_k": 5},
]


@settings(deadline=None, derandomize=True, max_examples=examples(30))
@given(
    kinds=st.lists(st.integers(0, len(OPTIONS) - 1), min_size=1, max_size=9),
    vocab=st.sampled_from([2, 17, 1500]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_tokens_are_the_samplers(
    kinds: list[int], vocab: int, seed: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(len(kinds), vocab, generator=generator) * 3).to(dtype)
    options = [replace(GREEDY, seed=seed + row, **OPTIONS[kind]) for row, kind in enumerate(kinds)]  # type: ignore[arg-type]
    sequences = [make_sequence(3 + row, option) for row, option in enumerate(options)]
    expected = sample(logits.clone(), sequences, NO_EOS)
    before = logits.clone()
    tokens, finite = sample_on_device(logits, sequences)
    assert tokens.tolist() == [one.token_id for one in expected]
    assert finite.all()
    assert torch.equal(logits, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_says_so_and_gives_a_token_that_can_be_looked_up(
    value: float,
) -> None:
    sequences = [make_sequence(4, replace(GREEDY, **kind)) for kind in OPTIONS]  # type: ignore[arg-type]
    logits = torch.randn(len(OPTIONS), 50)
    expected = sample_on_device(logits, sequences)[0]
    for row in range(len(OPTIONS)):
        broken = logits.clone()
        broken[row, 11:] = value
        tokens, finite = sample_on_device(broken, sequences)
        assert finite.tolist() == [other != row for other in range(len(OPTIONS))]
        assert 0 <= tokens[row] < 50
        assert all(tokens[i] == expected[i] for i in range(len(OPTIONS)) if i != row)


def test_a_draw_is_seeded_by_the_position_behind_the_token_in_flight() -> None:
    logits = torch.zeros(1, 1000)
    warm = replace(GREEDY, temperature=1.0)
    known, in_flight = make_sequence([1, 2, 3, 4], warm), make_sequence([1, 2, 3], warm)
    known.num_computed_tokens = in_flight.num_computed_tokens = 3
    drawn = [sample_on_device(logits, [seq])[0].item() for seq in (known, in_flight)]
    assert drawn[0] == drawn[1] == sample(logits, [in_flight], NO_EOS)[0].token_id
    assert drawn[0] != sample_on_device(logits, [make_sequence([1, 2, 3], warm)])[0].item()


def test_nothing_waits_for_the_device() -> None:
    """Reading a result on the meta device raises."""
    sequences = [make_decoding(3, 4) for _ in OPTIONS]
    for seq, options in zip(sequences, OPTIONS, strict=True):
        seq.sampling = replace(GREEDY, **options)  # type: ignore[arg-type]
    logits = torch.zeros(len(OPTIONS), 50, device="meta")
    tokens, finite = sample_on_device(logits, sequences)
    assert tokens.device.type == finite.device.type == "meta"
    ids = torch.zeros(12, dtype=torch.long, device="meta")
    Carried(np.array([4, 2]), np.array([0, 3]), tokens).write_into(ids)
    with pytest.raises(RuntimeError):
        tokens.tolist()


def test_tokens_are_carried_to_their_places() -> None:
    ids = torch.tensor([70, 0, 71, 0, 72])
    Carried(np.array([1, 3]), np.array([2, 0]), torch.tensor([5, 6, 7])).write_into(ids)
    assert ids.tolist() == [70, 7, 71, 5, 72]


def test_no_samples_are_none() -> None:
    tokens, finite = sample_on_device(torch.zeros(0, 50), [])
    assert (tokens.tolist(), finite.tolist()) == ([], [])


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"logit_bias": ((1, 1.0),)},
        {"min_tokens": 1},
        {"logprobs": 0},
        {"grammar": Grammar(GrammarKind.REGEX, ("a",))},
    ],
    ids=lambda options: next(iter(options)),
)
def test_who_is_not_memoryless(options: dict[str, object]) -> None:
    assert not make_sequence(3, replace(GREEDY, **options)).is_memoryless  # type: ignore[arg-type]
    assert all(make_sequence(3, replace(GREEDY, **kind)).is_memoryless for kind in OPTIONS)  # type: ignore[arg-type]
