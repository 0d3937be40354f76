import random
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from common.engine.cpu import masking as cpu_masking
from common.engine.cpu import sampling
from common.engine.kernel_checks.verdicts import trusted_sampling
from common.engine.sampling import grammar_masks, torch_kernels
from common.engine.sampling.grammar_masks import FORBIDDEN, Kernel, PendingMasks, start_masks
from common.engine.sampling.sampler import sample
from common.engine.sampling.token_masks import TokenMasks, find_masks
from common.grammar.matcher import MaskFiller, Masks
from common.messages import SamplingParams
from tests.unit.common.engine.sequences import NO_EOS, make_sequence
from tests.unit.common.grammar.allowed import VOCAB, choice, make_compiler
from tests.unit.router.tiny_tokenizer import write_folder

BOTH = pytest.mark.parametrize("kernel", [grammar_masks.mask_logits, cpu_masking.mask_logits])
Draw = Callable[[torch.Tensor, list[int], list[float], list[int]], list[int]]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def make_masks(rows: list[set[int]], vocab: int) -> Masks:
    bits = np.zeros((len(rows), -(-vocab // 32) * 32), np.uint8)
    for row, tokens in enumerate(rows):
        bits[row, sorted(tokens)] = 1
    return np.packbits(bits, axis=1, bitorder="little").view(np.int32)


def random_logits(rows: int, vocab: int) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(1)) * 5


@BOTH
@DTYPES
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 100, 1000])
def test_forbidden_tokens_fall_and_allowed_ones_stay(
    kernel: Kernel, dtype: torch.dtype, vocab: int
) -> None:
    draw = random.Random(vocab)
    tokens = [{t for t in range(vocab) if draw.random() < share} for share in (0.1, 0.5, 1.0)]
    logits = random_logits(5, vocab).to(dtype)
    before = logits.clone()
    kernel(logits, [3, 0, 4], make_masks(tokens, vocab))
    for row, kept in ((3, tokens[0]), (0, tokens[1]), (4, tokens[2])):
        is_kept = torch.tensor([t in kept for t in range(vocab)])
        assert torch.equal(logits[row][is_kept], before[row][is_kept])
        assert (logits[row][~is_kept] <= FORBIDDEN[dtype] * 0.99).all()
    assert torch.equal(logits[[1, 2]], before[[1, 2]]), "rows without a grammar"


def ready(rows: list[set[int]], vocab: int) -> PendingMasks:
    masks: Future[Masks] = Future()
    masks.set_result(make_masks(rows, vocab))
    return PendingMasks(list(range(len(rows))), masks)


def find_masks_of(grammars: PendingMasks) -> TokenMasks:
    masks = find_masks(grammars, [], [], NO_EOS, 0)
    assert masks is not None
    return masks


OPTIONS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0.0},
    "cold": {"temperature": 1e-7},
    "warm": {"temperature": 1.0},
    "hot": {"temperature": 100.0},
    "bias": {"temperature": 1.0, "logit_bias": ((7, 100.0), (3, -100.0))},
    "top_k": {"temperature": 100.0, "top_k": 50},
    "top_p": {"temperature": 100.0, "top_p": 0.999},
    "min_p": {"temperature": 100.0, "min_p": 0.001},
    "penalties": {"temperature": 100.0, "repetition_penalty": 0.01, "presence_penalty": -2.0},
    "min_tokens": {"temperature": 1.0, "min_tokens": 5},
}


@DTYPES
@pytest.mark.parametrize("name", OPTIONS)
def test_a_forbidden_token_is_never_sampled(dtype: torch.dtype, name: str) -> None:
    allowed = {3, 500, 999}
    logits = random_logits(200, 1000).to(dtype)
    logits[:, 7] = 50.0  # by far the likeliest
    fields: dict[str, object] = {"max_tokens": 9, **OPTIONS[name]}
    sequences = [
        make_sequence(3, SamplingParams(seed=seed, **fields))  # type: ignore[arg-type]
        for seed in range(200)
    ]
    samples = sample(logits, sequences, NO_EOS, ready([allowed] * 200, 1000))
    assert all(one.is_finite for one in samples)
    assert {one.token_id for one in samples} <= allowed


@pytest.mark.parametrize("draw", [torch_kernels.draw_tokens, sampling.draw_tokens])
@DTYPES
def test_no_draw_takes_a_forbidden_token(draw: Draw, dtype: torch.dtype) -> None:
    logits = random_logits(1, 5000).to(dtype)
    find_masks_of(ready([{1, 2, 4000}], 5000)).apply(logits, {0: 0})
    keys = list(range(50))
    assert {*draw(logits.repeat(50, 1), keys, [5.0] * 50, keys)} == {1, 2, 4000}


@DTYPES
def test_log_probabilities_are_those_of_the_model(dtype: torch.dtype) -> None:
    logits = random_logits(3, 1000).to(dtype)
    expected = torch.log_softmax(logits.float(), dim=-1)
    asked = SamplingParams(0.0, 0, 9, logprobs=2)
    sequences = [make_sequence(3, asked) for _ in range(3)]
    for row, found in enumerate(sample(logits, sequences, NO_EOS, ready([{5}] * 3, 1000))):
        assert found.token_id == 5
        assert found.logprobs is not None
        assert found.logprobs.logprob == pytest.approx(float(expected[row, 5]), abs=1e-4)
        assert list(found.logprobs.top_token_ids) == expected[row].topk(2).indices.tolist()


@BOTH
@DTYPES
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("token", [5, 98])
def test_a_poisoned_row_stays_so_though_the_token_is_forbidden(
    kernel: Kernel, dtype: torch.dtype, poison: float, token: int
) -> None:
    logits = random_logits(2, 99).to(dtype)
    logits[1, token] = poison
    kernel(logits, [0, 1], make_masks([{1}, {1}], 99))
    assert [s.is_finite for s in sample(logits, [make_sequence(3)] * 2, NO_EOS)] == [True, False]


def test_only_sequences_with_a_grammar_get_masks(tmp_path: Path) -> None:
    compiler, filler = make_compiler(write_folder(tmp_path)), MaskFiller(VOCAB)
    sequences = [make_sequence(3) for _ in range(4)]
    assert start_masks(filler, sequences) is None
    sequences[1].matcher = compiler.compile(choice("b"))
    sequences[3].matcher = compiler.compile(choice("d"))
    pending = start_masks(filler, sequences)
    assert pending is not None
    logits = torch.zeros(4, VOCAB)
    logits[:, 7] = 1.0
    tokens = [one.token_id for one in sample(logits, sequences, NO_EOS, pending)]
    assert tokens == [7, ord("b"), 7, ord("d")]


def test_the_kernel_is_ready_before_the_first_grammar() -> None:
    from common.engine.cpu.masking import mask_rows

    assert trusted_sampling() is None
    known = len(vars(mask_rows)["overloads"])
    cpu_masking.mask_logits(torch.zeros(5, 70), [2, 3], make_masks([{1}, {2}], 70))
    assert len(vars(mask_rows)["overloads"]) == known


@DTYPES
def test_logits_made_in_inference_mode_are_masked_too(dtype: torch.dtype) -> None:
    """The general path makes such logits on a device, where torch's operations do the masking."""
    with torch.inference_mode():
        logits = random_logits(2, 40).to(dtype)
    grammar_masks.mask_logits(logits, [1], make_masks([{3}], 40))
    assert logits.argmax(dim=1).tolist()[1] == 3
