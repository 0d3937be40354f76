"""Grammar, min_tokens, bad words and allowed tokens together, against sets worked out one by one."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.cpu import sampling as cpu_sampling
from common.engine.faults import sample_fault
from common.engine.sampling import grammar_masks, sampler, token_masks, torch_kernels
from common.engine.sampling.grammar_masks import PendingMasks, start_masks
from common.engine.sampling.sampler import SamplingKernels, sample
from common.engine.sequence import Sequence
from common.grammar.matcher import MaskFiller, Masks
from common.messages import SamplingParams
from pdserve.errors import Reason
from tests.examples import examples
from tests.unit.common.engine.sequences import NO_EOS, make_sequence
from tests.unit.common.grammar import allowed as byte_grammars
from tests.unit.router.tiny_tokenizer import write_folder

VOCAB = 7
EOS = frozenset({1})
BOTH = pytest.mark.parametrize("kernels", [cpu_sampling, torch_kernels], ids=["numba", "torch"])
GREEDY = SamplingParams(0.0, 0, 99)

token = st.integers(0, VOCAB - 1)
sets = st.sets(token, max_size=VOCAB)
options = st.builds(
    replace,
    st.just(GREEDY),
    temperature=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 99),
    stop_token_ids=sets.map(tuple),
    ignore_eos=st.booleans(),
    min_tokens=st.integers(0, 4),
    bad_words=st.lists(st.lists(token, min_size=1, max_size=3).map(tuple), max_size=6).map(tuple),
    allowed_token_ids=st.one_of(st.just(()), sets.map(tuple)),
    logit_bias=st.dictionaries(token, st.floats(-100, 100, width=32), max_size=3).map(
        lambda biases: tuple(biases.items())
    ),
    repetition_penalty=st.sampled_from([1.0, 0.01, 100.0]),
    top_k=st.sampled_from([0, 1, 3]),
    top_p=st.sampled_from([1.0, 0.5]),
    min_p=st.sampled_from([0.0, 0.1]),
    logprobs=st.sampled_from([None, 2]),
)


def allowed_by_hand(sampling: SamplingParams, outputs: list[int], grammar: set[int]) -> set[int]:
    """Return the tokens that may come next, by the words of the documentation."""
    allowed = {
        t for t in grammar if t in sampling.allowed_token_ids or not sampling.allowed_token_ids
    }
    if len(outputs) < sampling.min_tokens:
        allowed -= set(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            allowed -= EOS
    for *start, last in sampling.bad_words:
        if outputs[len(outputs) - len(start) :] == start:
            allowed.discard(last)
    return allowed


def pending(grammars: list[set[int] | None]) -> PendingMasks | None:
    rows = [row for row, tokens in enumerate(grammars) if tokens is not None]
    bits = np.zeros((len(rows), 32), np.uint8)
    for at, row in enumerate(rows):
        bits[at, sorted(grammars[row] or ())] = 1
    masks: Future[Masks] = Future()
    masks.set_result(np.packbits(bits, axis=1, bitorder="little").view(np.int32))
    return PendingMasks(rows, masks) if rows else None


@contextmanager
def using(kernels: SamplingKernels) -> Iterator[None]:
    """On host memory the sampler has a choice: numba's kernels, or torch's where those are left out."""
    mask = grammar_masks.mask_logits
    if kernels is torch_kernels:
        with (
            patch.object(sampler, "_cpu_kernels", lambda: torch_kernels),
            patch.object(token_masks, "mask_kernel", lambda _: mask),
        ):
            yield
    else:
        yield


def asking(sampling: SamplingParams, outputs: list[int]) -> Sequence:
    seq = make_sequence([3, 4], sampling)
    for token_id in outputs:
        seq.append(token_id, NO_EOS)
    return seq


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(deadline=None, derandomize=True, max_examples=examples(40))
@given(
    asked=st.lists(st.tuples(options, st.none() | sets), min_size=1, max_size=4),
    outputs=st.lists(token, max_size=5),
    seed=st.integers(0, 99),
)
def test_a_token_is_one_of_those_left_or_none_is_left(
    kernels: SamplingKernels,
    dtype: torch.dtype,
    asked: list[tuple[SamplingParams, set[int] | None]],
    outputs: list[int],
    seed: int,
) -> None:
    logits = torch.randn(len(asked), VOCAB, generator=torch.Generator().manual_seed(seed)) * 9
    logits = logits.to(dtype)
    before = logits.clone()
    sequences = [asking(sampling, outputs) for sampling, _ in asked]
    with using(kernels):
        found = sample(logits, sequences, EOS, pending([grammar for _, grammar in asked]))
    for (sampling, grammar), one, row in zip(asked, found, before, strict=True):
        everything = set(range(VOCAB))
        left = allowed_by_hand(sampling, outputs, everything if grammar is None else grammar)
        assert one.is_finite
        assert one.has_choice == bool(left)
        if left:
            assert one.token_id in left
            if sampling.temperature == 0 and sampling.is_plain:
                assert row[one.token_id] == row[sorted(left)].max()
        if sampling.logprobs is not None and one.logprobs:
            expected = torch.log_softmax(row.float(), dim=-1)[one.token_id]
            assert one.logprobs.logprob == pytest.approx(float(expected), abs=1e-3)


@BOTH
@settings(deadline=None, derandomize=True, max_examples=examples(20))
@given(options, sets, st.lists(token, max_size=5))
def test_what_is_nan_is_told_apart_from_what_has_no_token_left(
    kernels: SamplingKernels, sampling: SamplingParams, grammar: set[int], outputs: list[int]
) -> None:
    for poison in (float("nan"), inf, -inf):
        logits = torch.zeros(2, VOCAB)
        logits[1, 5] = poison
        sequences = [asking(sampling, outputs), asking(sampling, outputs)]
        with using(kernels):
            found = sample(logits, sequences, EOS, pending([grammar, grammar]))
        assert [one.is_finite for one in found] == [True, False]
        fault = sample_fault(sequences[1], found[1])
        assert fault is not None
        assert fault.reason is Reason.NAN_LOGITS


def test_a_row_of_minus_infinities_is_no_ban_but_a_fault_of_the_model() -> None:
    (found,) = sample(torch.full((1, VOCAB), -inf), [asking(GREEDY, [])], EOS)
    assert (found.is_finite, found.has_choice) == (False, True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_form_of_stop_tokens_alone_has_no_token_before_min_tokens(
    tmp_path: Path, temperature: float
) -> None:
    """`[0-9]{4,8}` with all digits as stop tokens: token 0 came once."""
    compiler = byte_grammars.make_compiler(write_folder(tmp_path))
    digits = tuple(b"0123456789")
    sampling = SamplingParams(temperature, 7, 20, stop_token_ids=digits, min_tokens=4)
    seq = make_sequence(3, sampling)
    seq.matcher = compiler.compile(byte_grammars.regex("[0-9]{4,8}"))
    filler = MaskFiller(byte_grammars.VOCAB)
    logits = torch.randn(1, byte_grammars.VOCAB, generator=torch.Generator().manual_seed(1))
    eos = frozenset({byte_grammars.EOS})
    (found,) = sample(logits, [seq], eos, start_masks(filler, [seq]))
    assert (found.is_finite, found.has_choice) == (True, False)
    fault = sample_fault(seq, found)
    assert fault is not None
    assert fault.reason is Reason.INVALID_FIELD
    assert fault.message == "by structured_output and min_tokens no token may come first"


@pytest.mark.parametrize(
    ("options", "outputs", "names"),
    [
        (
            {"bad_words": ((2, 6),), "allowed_token_ids": (6,)},
            [2],
            "bad_words and allowed_token_ids",
        ),
        ({"min_tokens": 4, "stop_token_ids": tuple(range(VOCAB))}, [2], "min_tokens"),
        ({"bad_words": tuple((4, t) for t in range(VOCAB))}, [4], "bad_words"),
    ],
    ids=["allowed", "min_tokens", "bad_words"],
)
def test_an_end_in_the_middle_has_a_name_of_its_own(
    options: dict[str, Any], outputs: list[int], names: str
) -> None:
    seq = asking(replace(GREEDY, **options), outputs)
    (found,) = sample(torch.zeros(1, VOCAB), [seq], EOS)
    fault = sample_fault(seq, found)
    assert fault is not None
    assert fault.reason is Reason.NO_TOKEN_LEFT
    assert fault.message == f"by {names} no token may follow the first 1"
