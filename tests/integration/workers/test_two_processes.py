"""Every kind of model, its prompts in one process and its answers in another: the tokens of `transformers`.

Each run is under pressure for memory too: sequences are preempted behind their hand-off (tight_decode.py).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.build import Engine
from common.engine.memory.kv_cache import kv_layout
from common.messages import WorkerLoad
from tests.integration.support.in_process_workers import load_now
from tests.integration.support.model_kinds import KINDS
from tests.integration.support.prefill_process import PrefillProcess
from tests.integration.support.tight_decode import NEW_TOKENS, TightDecode
from tests.unit.common.engine.generation import answers
from tests.unit.common.engine.rounded_kv import likeliest_rounded, stored_levels
from tests.unit.common.engine.tiny_models import engine_config, make_engine

# below are bos, eos and padding of some kinds; no vocabulary is smaller than 64
PROMPTS = [random.Random(100 + n).choices(range(3, 64), k=n) for n in (5, 17, 40, 100)]
# chunks of 32 tokens, in blocks that the other side does not have
REFERENCE = engine_config(
    backend="reference", block_size=12, num_blocks=600, max_batch_tokens=32, max_num_seqs=8
)
AUTO = engine_config(num_blocks=400, max_batch_tokens=32, max_num_seqs=8)
RECOMPUTED = (REFERENCE, AUTO.model_copy(update={"preemption": "recompute"}))
SWAPPED = (AUTO, REFERENCE.model_copy(update={"preemption": "swap", "block_size": 8}))

# one of each kind; the others are slow only by their number
QUICK = [
    ("gemma3_text", "recompute"),
    ("gpt_oss", "recompute"),
    ("gemma2", "recompute"),
    ("llama4_text", "recompute"),
    ("qwen2_moe", "recompute"),
    ("bloom", "recompute"),
    ("falcon rw, biases of rounded ALiBi in keys", "recompute"),
    ("deepseek_v3", "recompute"),
    ("deepseek_v3", "swap"),
    ("gemma4_text", "recompute"),
    ("gemma4_text", "swap"),
    ("deepseek_v32", "recompute"),
    ("two passes over halves of values", "recompute"),
    ("positions behind those of padding", "recompute"),
    ("no cache", "recompute"),
    ("qwen3_next", "recompute"),
    ("falcon_h1", "recompute"),
    ("nemotron_h", "recompute"),
    ("lfm2", "recompute"),
    ("rwkv", "swap"),
    ("text of qwen2_5_vl", "recompute"),
    ("integers of awq", "recompute"),
    ("GGUF, Q4_K_M", "recompute"),
]
# 8-bit keys and values: latents, shapes by layer, sinks, states, a file's own integers
ROUNDED = [
    ("deepseek_v3", "swap", "int8"),
    ("gemma4_text", "swap", "int8"),
    ("gpt_oss", "recompute", "int8"),
    ("qwen3_next", "recompute", "int8"),
    ("GGUF, Q4_K_M", "recompute", "int8"),
    ("llama", "swap", "fp8"),
    ("gemma4_text", "recompute", "fp8"),
    ("qwen3_next", "recompute", "fp8"),
    *(
        pytest.param(name, mode, form, marks=pytest.mark.slow)
        for name, mode, form in (
            ("deepseek_v3", "recompute", "int8"),
            ("deepseek_v3", "swap", "fp8"),
            ("kimi_linear", "recompute", "int8"),
            ("GGUF, Q4_K_M", "swap", "int8"),
            ("llama", "recompute", "fp8"),
        )
    ),
    *(
        pytest.param(name, "recompute", form, marks=pytest.mark.slow)
        for name in ("granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2", "zamba2", "zaya")
        for form in ("int8", "fp8")
    ),
]
SLOW = [
    pytest.param(name, mode, marks=pytest.mark.slow)
    for name in KINDS
    for mode in ("recompute", "swap")
    if (name, mode) not in QUICK
]


@pytest.fixture(scope="module")
def prefill() -> Iterator[PrefillProcess]:
    with PrefillProcess() as process:
        yield process


@dataclass(frozen=True)
class Run:
    """Answers to PROMPTS, the decode worker's counters behind them, and its engine."""

    answers: list[list[int]]
    load: WorkerLoad
    engine: Engine


def run(prefill: PrefillProcess, folder: Path, mode: str, **changes: object) -> Run:
    """Answer all prompts, with the configurations of a mode, changed."""
    pair = RECOMPUTED if mode == "recompute" else SWAPPED
    prefill_config, decode_config = (config.model_copy(update=changes) for config in pair)
    prefill.begin(folder, prefill_config)
    with TightDecode(folder, decode_config, PROMPTS, prefill) as decode:
        prefill.wait_begun()
        answers = decode.answer_all(f"{folder}-{mode}")
        decode.check_at_rest()
        prefill.check_at_rest()
        load, engine = load_now(decode.worker), decode.engine
    assert len({token for answer in answers for token in answer}) >= 3, "not lively"
    return Run(answers, load, engine)


def check_counters(found: Run, mode: str) -> None:
    """Check what was shipped, that nothing was refused, and that sequences were preempted by `mode`."""
    load, engine = found.load, found.engine
    layout = kv_layout(engine.spec)
    num_bytes = layout.num_bytes(sum(map(len, PROMPTS))) + len(PROMPTS) * layout.state_bytes
    assert load.kv_bytes == num_bytes
    assert load.prefill_fallbacks == load.kv_rejected == 0
    is_swapped = mode == "swap" and engine.states is None
    assert load.preemptions > 0
    assert load.swaps == (load.preemptions if is_swapped else 0)
    assert (load.recomputed_tokens > 0) != is_swapped


@pytest.mark.parametrize(("name", "mode"), [*QUICK, *SLOW])
def test_tokens_are_those_of_transformers(
    prefill: PrefillProcess, tmp_path: Path, name: str, mode: str
) -> None:
    """A state is computed again, whatever the configuration says."""
    model = KINDS[name](tmp_path)
    found = run(prefill, model.folder, mode)
    for prompt, answer in zip(PROMPTS, found.answers, strict=True):
        assert answer == likeliest(model.reference, prompt, answer)
    check_counters(found, mode)


@pytest.mark.parametrize(("name", "mode", "form"), ROUNDED)
def test_8_bit_keys_and_values_give_the_tokens_over_rounded_ones(
    prefill: PrefillProcess, tmp_path: Path, name: str, mode: str, form: str
) -> None:
    """Without a GPU fp8 takes the reference backend, on both sides.

    Of two levels as near to a number, the oracle takes that of an engine alone, over the same tokens.
    """
    model = KINDS[name](tmp_path)
    changes = {"kv_cache_dtype": form}
    changes |= {"attention_backend": "reference"} if form == "fp8" else {}
    found = run(prefill, model.folder, mode, **changes)
    assert found.engine.cache.kv_dtype == form
    alone = make_engine(model.folder, AUTO.model_copy(update=changes))
    texts = [[*prompt, *answer[:-1]] for prompt, answer in zip(PROMPTS, found.answers, strict=True)]
    stored = [answer.kv for answer in answers(alone, texts, 1, 32)]
    for prompt, answer, kv in zip(PROMPTS, found.answers, stored, strict=True):
        levels = stored_levels(form, kv)
        assert answer == likeliest_rounded(model.reference, prompt, answer, levels)
    check_counters(found, mode)


def likeliest(reference: Any, prompt: list[int], answer: list[int]) -> list[int]:
    """Return what `transformers` finds likeliest behind the prompt and behind each token of the answer.

    An answer that is equal to it is the greedy one.
    """
    assert len(answer) == NEW_TOKENS
    with torch.inference_mode():
        logits = reference(torch.tensor([[*prompt, *answer[:-1]]])).logits[0]
    tokens: list[int] = logits[len(prompt) - 1 :].argmax(dim=-1).tolist()
    return tokens
