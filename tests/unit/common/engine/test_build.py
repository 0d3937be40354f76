"""A model that our attention cannot honour is refused at load, by name; never run wrongly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.config import StoredDtype
from common.engine.build import assemble_engine, build_engine
from common.engine.device import select_device
from common.engine.kv_dtype import with_kv_dtype
from common.engine.stages import StageClock
from common.engine.weights.load import load_model
from pdserve.errors import SetupError
from tests.unit.common.engine.tiny_models import (
    VOCAB,
    engine_config,
    kv_bytes,
    make_engine,
    save_model,
)

COMMON: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WITHOUT_GROUPS: dict[str, object] = {"num_key_value_heads": 4}
EXPERTS: dict[str, object] = {"num_local_experts": 2, "num_experts_per_tok": 1}
# what each family needs that we have not, and what the refusal says of it
UNSUPPORTED: dict[str, tuple[dict[str, object], str]] = {
    "bert": (
        WITHOUT_GROUPS,
        r"BertSelfAttention \(layer 0\) asks for .* later positions",
    ),
    "xlm": (
        {**WITHOUT_GROUPS, "emb_dim": 64, "causal": True, "pad_token_id": 1},
        "layer 0 does not attend over keys and values",
    ),
}


def save_random(folder: Path, family: str, changes: dict[str, object]) -> Path:
    torch.manual_seed(0)
    fields = {**COMMON, **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_what_we_cannot_honour_is_refused_by_name(tmp_path: Path, family: str) -> None:
    changes, message = UNSUPPORTED[family]
    folder = save_random(tmp_path, family, changes)
    with pytest.raises(SetupError, match=message):
        make_engine(folder, engine_config(backend="reference"))


def test_a_window_by_mask_alone_is_refused(tmp_path: Path) -> None:
    """Moshi's layers have a window that is not handed to attention.

    32 positions are more than the probe runs: its numbers alone would not tell.
    """
    changes: dict[str, object] = {"head_dim": 16, "ffn_dim": 64, "sliding_window": 32}
    folder = save_random(tmp_path, "moshi", changes)
    message = r"MoshiAttention \(layer 0\) asks for a sliding window by mask alone"
    with pytest.raises(SetupError, match=message):
        make_engine(folder, engine_config(backend="reference"))


class CountingPositions(torch.nn.Module):  # type: ignore[misc]
    """Positions of a foreign kind: it numbers the columns of a call, so a decode step is at position 0."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self._rows = rows

    def forward(self, ids: torch.Tensor, *unused: object, **unused_too: object) -> torch.Tensor:
        return self._rows[: ids.shape[1]]


@pytest.mark.parametrize(
    ("dtype", "kv"),
    [("float32", "auto"), ("bfloat16", "auto"), ("float16", "auto"), ("bfloat16", "int8")],
)
def test_rounding_hides_no_wrong_positions(tmp_path: Path, dtype: StoredDtype, kv: str) -> None:
    """The logits hardly show it here."""
    changes: dict[str, object] = {"d_model": 64, "decoder_layers": 2, "decoder_ffn_dim": 64}
    folder = save_random(
        tmp_path, "bart", changes | {"decoder_attention_heads": 4} | WITHOUT_GROUPS
    )
    cpu = torch.device("cpu")
    model, spec = load_model(folder, dtype, cpu)
    decoder: Any = model.get_submodule("model.decoder")
    decoder.embed_positions = CountingPositions(decoder.embed_positions.weight[2:])
    config = engine_config(backend="reference", dtype=dtype, kv_cache_dtype=kv)
    spec = with_kv_dtype(spec, config)
    message = (
        r"keys and values of layer 0 differ from the model's own by \d+%; it .* counts positions"
    )
    with pytest.raises(SetupError, match=message):
        assemble_engine(model, spec, config, cpu)


def test_a_window_as_wide_as_the_context_is_none(tmp_path: Path) -> None:
    folder = save_random(tmp_path, "phimoe", {**EXPERTS, "sliding_window": 64})
    assert make_engine(folder, engine_config(backend="reference")).spec.max_context_tokens == 64


def test_a_model_that_fails_on_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    """Such a model reads a padding token that its configuration does not have."""
    folder = save_random(tmp_path, "roberta-prelayernorm", {"num_key_value_heads": 4})
    with pytest.raises(SetupError, match="does not run on token ids alone: ne") as caught:
        make_engine(folder, engine_config(backend="reference"))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fusion", ["auto", "off"])
def test_a_supported_model_is_built_and_holds_no_block(
    llama: Path, dtype: str, fusion: str
) -> None:
    engine = make_engine(llama, engine_config(backend="reference", dtype=dtype, fusion=fusion))
    engine.pool.check_integrity([])
    assert engine.spec.dtype == dtype
    assert (engine.spec.num_layers, engine.spec.num_kv_heads, engine.spec.head_dim) == (2, 2, 16)
    assert engine.cache.num_bytes <= kv_bytes(engine.config)


def test_all_of_the_memory_asked_for_is_used(llama: Path) -> None:
    engine = make_engine(llama, engine_config(num_blocks=37))
    assert engine.pool.num_blocks == engine.cache.keys.shape[1] == 37


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 16), (1, 16), (8, 1)])
def test_too_little_memory_is_named(llama: Path, num_blocks: int, block_size: int) -> None:
    config = engine_config(num_blocks=num_blocks, block_size=block_size)
    with pytest.raises(SetupError, match=rf"kv_cache_gib .* holds {num_blocks} blocks") as caught:
        make_engine(llama, config)
    assert caught.value.remedy == "raise it"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=f"{tmp_path} is not a model"):
        build_engine(tmp_path, engine_config(), num_threads=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_absent_is_named() -> None:
    with pytest.raises(SetupError, match=r"'cuda' is not available.* this machine has: cpu"):
        select_device(engine_config(device="cuda"))
    assert select_device(engine_config(device="auto")).type == "cpu"


def test_a_build_tells_its_stages_in_order(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    clock = StageClock()
    build_engine(tmp_path, engine_config(), 1, stage=clock.stage)
    stages = clock.so_far()
    assert [stage.name for stage in stages.done] == [
        "loading weights",
        "running the model alone",
        "preparing weights",
        "allocating KV memory",
        "probing attention",
    ]
    assert stages.running == ""


def test_a_build_that_fails_shows_the_stage_it_failed_in(tmp_path: Path) -> None:
    clock = StageClock()
    with pytest.raises(SetupError):
        build_engine(tmp_path / "missing", engine_config(), 1, stage=clock.stage)
    assert clock.so_far().running == "loading weights"
