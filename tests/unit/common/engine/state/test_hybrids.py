"""Models with state beside attention give the tokens of `transformers`, in chunks and in mixed batches."""

import pkgutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next

from common.config import EngineConfig
from common.engine.batch import Batch, BatchEntry
from common.engine.build import Engine
from common.engine.limits import Limits
from common.engine.ragged import RaggedInputs
from common.engine.state.cache import StateError
from common.engine.state.hybrid import fit_states
from pdserve.errors import SetupError
from tests.unit.common.engine.generation import continuations
from tests.unit.common.engine.sequences import hold, make_sequence
from tests.unit.common.engine.state.hybrids import HYBRIDS, PROMPTS, save_hybrid
from tests.unit.common.engine.tiny_models import (
    continue_greedily,
    engine_config,
    load_reference,
    make_engine,
    poison,
)

NEW_TOKENS = 8


def fill_states(engine: Engine) -> None:
    """Fill all states with NaN: a read of an unwritten state then shows."""
    assert engine.states is not None
    for tensors in engine.states.tensors.values():
        for tensor in tensors.values():
            tensor.fill_(float("nan"))


@pytest.mark.parametrize("family", HYBRIDS)
def test_every_family_gives_transformers_tokens(tmp_path: Path, family: str) -> None:
    """Prompts of 1 to 300 tokens, in chunks of 67 and fewer, beside sequences that decode."""
    folder = save_hybrid(tmp_path, family)
    reference = load_reference(folder)
    # copies, since RecurrentGemma's modules begin a prompt of one token with the state of the one before
    expected = [continue_greedily(deepcopy(reference), prompt, NEW_TOKENS) for prompt in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) >= 3, "not lively"
    engine = make_engine(folder, engine_config(num_blocks=200))
    poison(engine)
    fill_states(engine)
    assert continuations(engine, PROMPTS, NEW_TOKENS, 67) == expected
    engine.prefix.check_integrity([])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hybrid(tmp_path_factory.mktemp("qwen3_next"), "qwen3_next")


@pytest.fixture
def engine(folder: Path) -> Engine:
    return make_engine(folder, engine_config(num_blocks=40, max_num_seqs=4))


def test_only_layers_of_attention_have_blocks(engine: Engine) -> None:
    spec = engine.spec
    assert (spec.kv_layers, spec.state_layers, spec.num_layers) == ((1, 3), (0, 2), 4)
    assert engine.cache.keys.shape[0] == 2
    assert spec.state is not None
    # of a layer: 4 inputs of 64 channels, and a state of 4 heads of 8 x 8, in float32
    assert spec.state.num_bytes == 2 * 4 * (64 * 4 + 4 * 8 * 8)


def test_without_attention_blocks_are_small_and_no_more_than_positions(tmp_path: Path) -> None:
    config = engine_config(num_blocks=40, max_num_seqs=4)
    engine = make_engine(save_hybrid(tmp_path, "mamba2"), config)
    assert engine.spec.kv_layers == ()
    assert engine.cache.num_bytes_per_token == 16
    assert engine.pool.num_blocks == 4 * 512 // 16


def test_a_step_that_runs_again_gives_the_same(engine: Engine) -> None:
    """So a step that raised, and one whose batch is split, lose nothing."""
    seq = hold(engine.pool, make_sequence(PROMPTS[1]))
    seq.state_slot = 0
    for count in (30, 39, 1):
        batch = Batch((BatchEntry(seq, count),))
        first, again = (engine.runner.run(batch) for _ in range(2))
        assert first == again
        seq.num_computed_tokens += count


def test_a_sequence_without_its_state_is_no_answer(engine: Engine) -> None:
    seq = hold(engine.pool, make_sequence(PROMPTS[0], computed=3))
    seq.state_slot = 1
    with pytest.raises(StateError, match="not of 3"):
        engine.runner.run(Batch((BatchEntry(seq, 2),)))


def test_states_that_do_not_fit_are_refused_with_the_arithmetic(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.engine.state.hybrid._usable_bytes", lambda device: 2**16)
    with pytest.raises(SetupError, match="states of 64 sequences take") as refusal:
        make_engine(folder, engine_config(max_num_seqs=64))
    assert "max_num_seqs" in str(refusal.value.remedy)


def test_states_take_half_of_the_memory_at_most_unless_their_number_is_set(engine: Engine) -> None:
    spec, limits = engine.spec, Limits(64, 512)
    assert spec.state is not None
    each = 2 * spec.state.num_bytes
    found = fit_states(limits, EngineConfig(), spec, 20 * each)
    assert found == (Limits(9, 512), 10 * each)
    assert fit_states(limits, EngineConfig(kv_cache_gib=1), spec, 20 * each)[1] == 20 * each
    with pytest.raises(SetupError, match="states of 40 sequences take"):
        fit_states(Limits(40, 512), EngineConfig(max_num_seqs=40), spec, 20 * each)


def test_a_recurrence_that_does_not_go_on_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose module takes a state for single tokens alone, so that every chunk begins anew."""
    own = modeling_qwen3_next.torch_chunk_gated_delta_rule

    def forgetful(*args: object, **kwargs: object) -> object:
        return own(*args, **kwargs | {"initial_state": None})

    monkeypatch.setattr(modeling_qwen3_next, "torch_chunk_gated_delta_rule", forgetful)
    with pytest.raises(SetupError, match="the recurrent state of layer 0 differ"):
        make_engine(folder, engine_config())


@pytest.mark.parametrize(
    "family", ["mamba2", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "zamba2"]
)
def test_a_long_chunk_that_forgets_the_state_is_refused(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe of the whole model runs chunks of 5 tokens, and this scan goes on in up to 16."""
    name = f"transformers.models.{family}.modeling_{family}.mamba2_chunk_scan"
    own = pkgutil.resolve_name(name)

    def forgetful(hidden: torch.Tensor, *args: object, chunk_size: int, **kwargs: object) -> object:
        before = kwargs.pop("initial_states") if hidden.shape[1] <= chunk_size else None
        return own(hidden, *args, chunk_size=chunk_size, **kwargs | {"initial_states": before})

    monkeypatch.setattr(name, forgetful)
    with pytest.raises(
        SetupError, match=r"layer 0 computes 16 tokens at a time, .* differ by \d+%"
    ):
        make_engine(save_hybrid(tmp_path, family), engine_config())


def test_decode_steps_limit_time_steps_as_chunks_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step without the limit leaves another state where all time steps of chunks are 0.5 at least."""
    folder = save_hybrid(tmp_path, "nemotron_h", time_step_min=0.5)
    make_engine(folder, engine_config())
    monkeypatch.setattr("common.engine.state.find.has_limits", lambda module: False)
    with pytest.raises(SetupError, match="the recurrent state of layer 0 differ"):
        make_engine(folder, engine_config())


def logits_behind(engine: Engine, prompt: list[int]) -> torch.Tensor:
    """Return the logits behind a prompt that runs in chunks of 64 tokens, its last one alone."""
    seq = hold(engine.pool, make_sequence(prompt))
    seq.state_slot = 0
    for start in range(0, len(prompt) - 1, 64):
        count = min(64, len(prompt) - 1 - start)
        engine.runner.run(Batch((BatchEntry(seq, count),)))
        seq.num_computed_tokens += count
    last = RaggedInputs.from_batch(Batch((BatchEntry(seq, 1),)), engine.pool.block_size)
    return engine.runner.logits(last)[0].float()


def test_bfloat16_gives_transformers_logits_but_for_rounding(folder: Path) -> None:
    """Rounding makes its logits 4 to 8 % other than those in float32. Ours differ from its by 3 % at most.

    A last token without what is before it gives logits that are far from that.
    """
    engine = make_engine(folder, engine_config(dtype="bfloat16", num_blocks=100))
    rounded = load_reference(folder).bfloat16()
    for prompt in (prompt for prompt in PROMPTS if len(prompt) > 1):
        with torch.inference_mode():
            theirs = rounded(torch.tensor([prompt])).logits[0, -1].float()
        whole, last = (logits_behind(engine, prompt[start:]) for start in (0, -1))
        assert (whole - theirs).norm() < 0.1 * theirs.norm()
        assert (last - theirs).norm() > 0.9 * theirs.norm()
