from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.cpu import sampling
from common.engine.sampling import torch_kernels
from common.engine.sampling.noise import gumbel, noise_key
from common.engine.sampling.sampler import sample
from common.engine.sequence import Sequence
from common.messages import SamplingParams
from tests.examples import examples
from tests.unit.common.engine.sequences import NO_EOS, make_sequence

Draw = Callable[[torch.Tensor, list[int], list[float], list[int]], list[int]]
Greedy = Callable[[torch.Tensor], tuple[list[int], list[bool]]]
CPU = torch.device("cpu")
# of tokens 0, 1 and 49,999 with seed 7, at position 30
NOISE = (-0.4488860817684429, -1.1637220829367925, -0.0960630113524702)
BOTH_DRAWS = pytest.mark.parametrize("draw", [torch_kernels.draw_tokens, sampling.draw_tokens])
BOTH_GREEDY = pytest.mark.parametrize(
    "greedy", [torch_kernels.greedy_tokens, sampling.greedy_tokens]
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def asking(temperature: float, seed: int = 0, prompt: int = 3) -> Sequence:
    return make_sequence(prompt, SamplingParams(temperature, seed, max_tokens=9))


def random_logits(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def chosen(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    return [choice.token_id for choice in sample(logits, sequences, NO_EOS)]


@BOTH_GREEDY
@DTYPES
@pytest.mark.parametrize("vocab", [1, 7, 128, 130, 1000])
def test_greedy_takes_the_likeliest(greedy: Greedy, dtype: torch.dtype, vocab: int) -> None:
    logits = random_logits(5, vocab).to(dtype)
    tokens, finite = greedy(logits)
    assert finite == [True] * 5
    assert torch.equal(logits[range(5), tokens], logits.amax(dim=-1))


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.zeros(1, 300)
    logits[0, [140, 17, 290]] = 2.0
    assert chosen(logits, [asking(0.0)]) == [17]


@DTYPES
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_poisoned_row_is_flagged_and_harms_no_other(
    dtype: torch.dtype, poison: float, temperature: float
) -> None:
    logits = random_logits(3, 50).to(dtype)
    sequences = [asking(temperature, seed) for seed in range(3)]
    clean = chosen(logits, sequences)
    logits[1, 33] = poison
    choices = sample(logits, sequences, NO_EOS)
    assert [choice.is_finite for choice in choices] == [True, False, True]
    assert [choices[0].token_id, choices[2].token_id] == [clean[0], clean[2]]


@DTYPES
def test_temperature_gives_the_softmax_distribution(dtype: torch.dtype) -> None:
    draws, temperature = 20_000, 0.7
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5]).to(dtype)
    expected = torch.softmax(logits.double() / temperature, dim=-1)
    sequences = [asking(temperature, seed) for seed in range(draws)]
    tokens = torch.tensor(chosen(logits.expand(draws, -1).contiguous(), sequences))
    seen = torch.bincount(tokens, minlength=5) / draws
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((seen - expected).abs() < 4.5 * deviation).all()


@BOTH_DRAWS
@DTYPES
@settings(deadline=None, derandomize=True, max_examples=examples(20))
@given(
    vocab=st.integers(1, 300),
    seed=st.integers(0, 1000),
    temperature=st.floats(0.05, 5),
    key=st.integers(0, 2**64 - 1),
)
def test_a_draw_is_the_largest_of_logits_and_noise(
    draw: Draw, dtype: torch.dtype, vocab: int, seed: int, temperature: float, key: int
) -> None:
    logits = random_logits(2, vocab, seed).to(dtype)
    scores = logits[1].double() / temperature + gumbel([key], vocab, CPU)[0]
    assert draw(logits, [1], [temperature], [key]) == [int(scores.argmax())]


@BOTH_DRAWS
@pytest.mark.parametrize("place", [0, 16, 998, 999])
def test_any_token_can_be_drawn_and_a_forbidden_one_never(draw: Draw, place: int) -> None:
    logits = torch.full((1, 1000), float("-inf"))
    logits[0, place] = -7.0
    assert [draw(logits, [0], [1.0], [key]) for key in range(20)] == [[place]] * 20


@pytest.mark.parametrize(("vocab", "num_draws"), [(300, 2000), (20_000, 500)])
@pytest.mark.parametrize(("relative", "most"), [(1e-3, 0.02), (1e-6, 0.002)])
def test_draws_hold_where_logits_differ_a_little(
    vocab: int, num_draws: int, relative: float, most: float
) -> None:
    """Another kind of device rounds otherwise, by far less than a thousandth."""
    logits = random_logits(1, vocab).expand(num_draws, -1)
    moved = logits * (1 + relative * random_logits(num_draws, vocab, seed=5, scale=1.0))
    sequences = [asking(1.0, seed) for seed in range(num_draws)]
    pairs = zip(chosen(logits.contiguous(), sequences), chosen(moved, sequences), strict=True)
    assert sum(one != other for one, other in pairs) <= most * num_draws


@pytest.mark.parametrize("temperature", [1e-4, 1e-9, 1e-39, 5e-324])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    logits = random_logits(20, 77)
    warm = chosen(logits, [asking(temperature, seed) for seed in range(20)])
    assert warm == chosen(logits, [asking(0.0)] * 20)


@settings(deadline=None, derandomize=True, max_examples=examples(20))
@given(st.permutations(range(6)), st.integers(1, 6), st.sets(st.integers(0, 5), max_size=3))
def test_a_request_gets_the_same_token_in_any_batch(
    order: list[int], batch_size: int, greedy: set[int]
) -> None:
    logits = random_logits(6, 90)
    sequences = [asking(0.0 if i in greedy else 1.3, seed=i, prompt=3 + i) for i in range(6)]
    alone = [chosen(logits[i : i + 1], [sequences[i]])[0] for i in range(6)]
    together = order[:batch_size]
    assert chosen(logits[together], [sequences[i] for i in together]) == [
        alone[i] for i in together
    ]


def test_a_draw_depends_on_the_place_in_the_whole_sequence() -> None:
    """Output tokens here become prompt tokens on the worker to which a request moves."""
    logits = random_logits(1, 5000, scale=0.1)
    here = asking(1.0, seed=5, prompt=3)
    moved = asking(1.0, seed=5, prompt=4)
    at_three = chosen(logits, [here])
    here.append(4, NO_EOS)
    assert chosen(logits, [here]) == chosen(logits, [moved]) != at_three


def test_seeds_differ() -> None:
    logits = random_logits(1, 5000, scale=0.1).expand(50, -1).contiguous()
    assert len(set(chosen(logits, [asking(1.0, seed) for seed in range(50)]))) > 45


def test_keys_are_splitmix64() -> None:
    """SplitMix64's first output for state 0 is published; a change would break replay of old requests."""
    assert noise_key(0, 0xE220A8397B1DCDAF) == 0xE220A8397B1DCDAF


def test_noise_stays_what_it_is() -> None:
    """A change would break replay of old requests."""
    found = gumbel([noise_key(7, 30)], 50_000, CPU)[0, [0, 1, 49_999]]
    expected = torch.tensor(NOISE, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40))
@settings(deadline=None, derandomize=True, max_examples=examples(50))
def test_noise_is_finite_for_any_seed(seed: int, position: int) -> None:
    key = noise_key(seed, position)
    assert 0 <= key < 2**64
    assert gumbel([key], 300, CPU).isfinite().all()


def test_noise_is_gumbels_over_seeds_positions_and_tokens() -> None:
    keys = [noise_key(seed, at) for seed in range(100) for at in range(100)]
    noise = gumbel(keys, 40, CPU)
    uniform = (-(-noise).exp()).exp()
    for numbers in (*uniform.T[:8], uniform[::17].flatten()):
        counts = torch.histc(numbers, bins=20, min=0, max=1)
        share = len(numbers) / 20
        assert ((counts - share).abs() < 4.5 * (share * 0.95) ** 0.5).all()


def test_noise_of_one_token_tells_nothing_of_another() -> None:
    """Neither the next token, nor the same one at the next position or under the next seed."""
    noise = gumbel([noise_key(seed, at) for seed in range(80) for at in range(80)], 64, CPU)
    noise = ((noise - noise.mean()) / noise.std()).view(80, 80, 64)
    pairs = [(noise[:-1], noise[1:]), (noise[:, :-1], noise[:, 1:])]
    pairs += [(noise[..., :-step], noise[..., step:]) for step in (1, 2, 16, 32)]
    for one, other in pairs:
        assert (one * other).mean().abs() < 4.5 / one.numel() ** 0.5
