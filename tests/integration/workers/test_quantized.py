"""Prefill and decode workers with quantized weights: a hand-off, and a pair that does not fit."""

from pathlib import Path

from common.messages import SamplingParams
from tests.integration.support.in_process_workers import Workers, load_now
from tests.unit.common.engine.tiny_models import VOCAB, engine_config, save_model

PROMPT = [(7 * i) % VOCAB for i in range(40)]
SAMPLING = SamplingParams(temperature=0.9, seed=5, max_tokens=12)
INT8 = engine_config(quantization="int8", max_batch_tokens=16, max_num_seqs=8)


def test_sampled_text_is_the_same_by_hand_off_and_local(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama")
    with Workers(model, prefill_config=INT8, decode_config=INT8) as workers:
        for name, prefill in (("local", None), ("handoff", "prefill-0")):
            workers.submit(name, PROMPT, SAMPLING, prefill=prefill, salt=name)
        local, handoff = (workers.answers.finished(n).tokens for n in ("local", "handoff"))
        assert local == handoff
        assert len(set(local)) > 5
        load = load_now(workers.decode)
        assert load.kv_bytes > 0
        assert load.kv_rejected == load.prefill_fallbacks == 0
        workers.check_at_rest()


def test_kv_of_other_weights_is_refused_and_the_prompt_is_computed_again(tmp_path: Path) -> None:
    """Registration refuses such a pair first; this is the second line of defence."""
    model = save_model(tmp_path, "llama")
    full = engine_config(max_batch_tokens=16, max_num_seqs=8)
    with Workers(model, prefill_config=full, decode_config=INT8) as workers:
        for name, prefill in (("local", None), ("handoff", "prefill-0")):
            workers.submit(name, PROMPT, SAMPLING, prefill=prefill, salt=name)
        local, handoff = (workers.answers.finished(n).tokens for n in ("local", "handoff"))
        assert local == handoff
        assert load_now(workers.decode).kv_rejected > 0
        workers.check_at_rest()
