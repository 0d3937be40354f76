"""Prefill and decode workers with quantized weights or KV: hand-offs, and pairs that do not fit."""

from pathlib import Path

import pytest

from common.config import EngineConfig
from common.messages import SamplingParams
from tests.integration.support.eight_prompts import PROMPTS, run_under_pressure, sampling
from tests.integration.support.in_process_workers import PREFILL, Workers, load_now
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model

PROMPT = [(7 * i) % VOCAB for i in range(40)]
SAMPLING = SamplingParams(temperature=0.9, seed=5, max_tokens=12)
FULL = engine_config(max_batch_tokens=16, max_num_seqs=8)
KINDS = {
    "weights": engine_config(quantization="int8", max_batch_tokens=16, max_num_seqs=8),
    "KV": engine_config(kv_cache_dtype="int8", max_batch_tokens=16, max_num_seqs=8),
    "fp8 KV": engine_config(
        kv_cache_dtype="fp8", backend="reference", max_batch_tokens=16, max_num_seqs=8
    ),
}
# of the llama shape in float32 a token has 512 bytes, and 160 in 8 bits
KV_BYTES = {"weights": 512, "KV": 160, "fp8 KV": 160}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@each_kind
def test_sampled_text_is_the_same_by_hand_off_and_local(model: Path, kind: str) -> None:
    """So it is behind a prefix that the hand-off left."""
    config = KINDS[kind]
    with Workers(model, prefill_config=config, decode_config=config) as workers:
        for name, prefill, salt in (
            ("local", None, "local"),
            ("handoff", PREFILL, "handoff"),
            ("again", None, "handoff"),
        ):
            workers.submit(name, PROMPT, SAMPLING, prefill=prefill, salt=salt)
            workers.answers.finished(name)
        local, handoff, again = (
            workers.answers.finished(name) for name in ("local", "handoff", "again")
        )
        assert local.tokens == handoff.tokens == again.tokens
        assert len(set(local.tokens)) > 5
        assert again.timings is not None
        assert again.timings.num_cached_tokens == 32
        load = load_now(workers.decode)
        assert load.kv_bytes == len(PROMPT) * KV_BYTES[kind]
        assert load.kv_rejected == load.prefill_fallbacks == 0
        workers.check_at_rest()


@pytest.mark.parametrize("kind", ["KV", "fp8 KV"])
@pytest.mark.parametrize("mode", ["swap", "recompute"])
def test_preempted_text_with_quantized_kv_is_that_of_an_undisturbed_run(
    model: Path, mode: str, kind: str
) -> None:
    """Eight sequences, handed off and local by turns, want 35 blocks, and there are 14."""
    prefill = KINDS[kind]
    dtype, backend = prefill.kv_cache_dtype, prefill.attention_backend
    tight, roomy = (
        engine_config(num_blocks=n, kv_cache_dtype=dtype, backend=backend, preemption=mode)
        for n in (4, 400)
    )
    with Workers(model, prefill_config=prefill, decode_config=roomy) as workers:
        for index, prompt in enumerate(PROMPTS):
            workers.submit(str(index), prompt, sampling(index), prefill=None)
        undisturbed = [workers.answers.finished(str(n)).tokens for n in range(len(PROMPTS))]
    with Workers(model, prefill_config=prefill, decode_config=tight) as workers:
        answers = run_under_pressure(workers, [PREFILL, None])
        assert [answer.tokens for answer in answers] == undisturbed
        workers.check_at_rest()
        load = load_now(workers.decode)
        assert load.preemptions > 0
        assert load.swaps == (load.preemptions if mode == "swap" else 0)


@pytest.mark.parametrize(
    ("kind", "other"), [*((kind, FULL) for kind in KINDS), ("fp8 KV", KINDS["KV"])]
)
@pytest.mark.parametrize("is_prefill_full", [True, False])
def test_kv_of_another_kind_is_refused_and_the_prompt_is_computed_again(
    model: Path, kind: str, other: EngineConfig, is_prefill_full: bool
) -> None:
    """Registration refuses such a pair first; this is the second line of defence."""
    pair: list[EngineConfig] = [other, KINDS[kind]]
    prefill_config, decode_config = pair if is_prefill_full else pair[::-1]
    with Workers(model, prefill_config=prefill_config, decode_config=decode_config) as workers:
        for name, prefill in (("local", None), ("handoff", PREFILL)):
            workers.submit(name, PROMPT, SAMPLING, prefill=prefill, salt=name)
        local, handoff = (workers.answers.finished(n).tokens for n in ("local", "handoff"))
        assert local == handoff
        assert load_now(workers.decode).kv_rejected > 0
        workers.check_at_rest()
