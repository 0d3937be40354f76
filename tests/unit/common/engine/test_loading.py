"""Numbers of a model as one configuration serves it, and workers of two configurations side by side."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from common.config import EngineConfig, TransferConfig
from common.engine.dtype import ChosenDtype
from common.engine.loading import load_weights
from common.engine.memory.kv_cache import kv_layout
from common.engine.model_spec import ModelSpec
from common.engine.stages import untold
from common.messages import WorkerInfo
from common.profile import WorkerProfile
from common.worker.identity import make_info
from pdserve.errors import SetupError
from router.workers.compatibility import check_compatibility
from tests.integration.support.worker_spec import worker_spec
from tests.unit.common.engine.tiny_models import engine_config, save_model
from tests.unit.common.engine.weights.test_context import MODEL, ORIGINAL, ROPE

CHOSEN = ChosenDtype("float32", "it is set")


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = {"rope_parameters": dict(ROPE), "original_max_position_embeddings": ORIGINAL}
    return save_model(
        tmp_path_factory.mktemp("phi3"), "phi3", **fields, max_position_embeddings=MODEL
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads without `transformers`."""
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def served(folder: Path, config: EngineConfig) -> ModelSpec:
    """Load a model; the numbers that were admitted must be those that the engine gets."""
    admitted: list[ModelSpec] = []
    rest = (CHOSEN, torch.device("cpu"), admitted.append, untold)
    _, spec = load_weights(folder, config, *rest)
    assert admitted == [spec]
    return spec


def info_of(role: Literal["prefill", "decode"], folder: Path, config: EngineConfig) -> WorkerInfo:
    worker = worker_spec(f"{role}-0", role, folder, config, TransferConfig())
    return make_info(worker, served(folder, config), WorkerProfile())


def pair(
    folder: Path, prefill: EngineConfig, decode: EngineConfig
) -> tuple[WorkerInfo, WorkerInfo]:
    return info_of("prefill", folder, prefill), info_of("decode", folder, decode)


def test_the_configuration_is_applied_once_and_told_in_one_order(longrope: Path) -> None:
    base = served(longrope, engine_config())
    config = engine_config(max_context_tokens=100, quantization="int8", kv_cache_dtype="int8")
    spec = served(longrope, config)
    assert spec.fingerprint == f"{base.fingerprint}-long-int8-kv-int8"
    assert (spec.max_context_tokens, spec.stored_as) == (100, "float32/int8+kv-int8")
    assert spec.dtype_reason == CHOSEN.reason


def test_a_model_that_is_loaded_without_transformers_is_served_alike(plain: Path) -> None:
    base = served(plain, engine_config())
    config = engine_config(max_context_tokens=100, quantization="int4", kv_cache_dtype="int8")
    spec = served(plain, config)
    assert spec.fingerprint == f"{base.fingerprint}-int4-kv-int8"
    assert (spec.max_context_tokens, spec.stored_as) == (100, "float32/int4+kv-int8")


def test_another_kv_dtype_is_told_apart(plain: Path) -> None:
    configs = engine_config(), engine_config(kv_cache_dtype="int8")
    full, small = pair(plain, *configs)
    fp8 = info_of("decode", plain, engine_config(backend="reference", kv_cache_dtype="fp8"))
    assert fp8.dtype == "float32+kv-fp8"
    for new, known in ((full, small), (small, full), (fp8, small), (full, fp8)):
        with pytest.raises(SetupError, match=r"has dtype .*set engine\.kv_cache_dtype"):
            check_compatibility(new, known)


def test_another_context_is_no_other_model(plain: Path) -> None:
    short, long = pair(plain, engine_config(max_context_tokens=100), engine_config())
    check_compatibility(short, long)
    assert (short.max_context_tokens, long.max_context_tokens) == (100, 512)
    specs = [served(plain, engine_config(max_context_tokens=n)) for n in (100, "auto")]
    assert kv_layout(specs[0]) == kv_layout(specs[1])


def test_a_context_that_turns_keys_by_other_factors_is_told_apart(longrope: Path) -> None:
    """So it is with 8-bit keys and values, whose fingerprint has the mark elsewhere."""
    for kv in ("auto", "int8"):
        within, beyond = (
            engine_config(max_context_tokens=n, kv_cache_dtype=kv) for n in (ORIGINAL, ORIGINAL + 1)
        )
        short, long = pair(longrope, within, beyond)
        with pytest.raises(SetupError, match=r"has model .*one engine\.max_context_tokens"):
            check_compatibility(short, long)
        check_compatibility(short, info_of("decode", longrope, within))
