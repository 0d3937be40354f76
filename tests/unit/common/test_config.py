import pytest
from pydantic import BaseModel, ValidationError

from common.config import EngineConfig, ServeConfig, TransferConfig, WorkerSpec
from common.router_config import RouterConfig

SECTIONS = [EngineConfig(), TransferConfig(), RouterConfig(), ServeConfig()]


@pytest.mark.parametrize("config", SECTIONS, ids=lambda config: type(config).__name__)
def test_no_setting_can_be_written_and_none_can_be_added(config: BaseModel) -> None:
    for name in type(config).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, name, getattr(config, name))
    with pytest.raises(ValidationError):
        config.surprise = 1  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(config).model_validate({"surprise": 1})


def test_the_defaults_serve_the_default_model_on_this_machine_alone() -> None:
    config = ServeConfig()
    assert (config.model, config.prefill, config.decode) == ("smollm2-135m", 1, 1)
    assert config.grpc_host == "127.0.0.1"
    assert config.ray_address is None


@pytest.mark.parametrize(
    ("section", "key", "bad"),
    [
        ("", "prefill", -1),
        ("", "decode", 0),
        ("", "grpc_port", 65536),
        ("", "http_port", -1),
        ("", "pin", "some"),
        ("", "namespace", "a b"),
        ("", "namespace", ""),
        ("", "start_timeout_s", 0),
        ("", "drain_timeout_s", -0.1),
        ("engine", "dtype", "int3"),
        ("engine", "quantization", "int3"),
        ("engine", "kv_cache_dtype", "int4"),
        ("engine", "block_size", 0),
        ("engine", "block_size", 257),
        ("engine", "block_size", 1.5),
        ("engine", "max_context_tokens", 15),
        ("engine", "kv_cache_gib", 0),
        ("engine", "kv_cache_gib", float("nan")),
        ("engine", "kv_cache_gib", "automatic"),
        ("engine", "gpu_memory_utilization", 0),
        ("engine", "gpu_memory_utilization", 1.1),
        ("engine", "watermark", 1.0),
        ("engine", "max_num_seqs", 0),
        ("engine", "max_batch_tokens", "512 tokens"),
        ("transfer", "max_concurrent_pulls", 0),
        ("transfer", "item_timeout_s", 0),
        ("router", "max_queued_requests", 0),
        ("router", "max_wait_s", -0.1),
        ("router", "max_wait_s", float("inf")),
        ("router", "stalled_after_s", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(section: str, key: str, bad: object) -> None:
    values = {section: {key: bad}} if section else {key: bad}
    with pytest.raises(ValidationError) as caught:
        ServeConfig.model_validate(values)
    (error,) = caught.value.errors()
    assert error["loc"] == ((section, key) if section else (key,))


@pytest.mark.parametrize(
    ("max_wait_s", "ttft_target_s", "limit_s"),
    [(None, None, None), (None, 1.5, 1.5), (10.0, 1.5, 10.0), (0.0, 1.5, 0.0), (10.0, None, 10.0)],
)
def test_a_ttft_target_limits_waiting_where_nobody_says_otherwise(
    max_wait_s: float | None, ttft_target_s: float | None, limit_s: float | None
) -> None:
    router = RouterConfig(max_wait_s=max_wait_s, max_queued_requests=7)
    config = ServeConfig(engine=EngineConfig(ttft_target_s=ttft_target_s), router=router)
    assert config.router_settings == RouterConfig(
        max_wait_s=limit_s, max_queued_requests=7, slo_ttft_s=ttft_target_s
    )


@pytest.mark.parametrize(
    ("own_s", "itl_target_s", "expected_s"),
    [(None, None, None), (None, 0.05, 0.05), (0.1, 0.05, 0.1)],
)
def test_the_objective_for_later_tokens_is_the_engine_s_target_where_nobody_says_otherwise(
    own_s: float | None, itl_target_s: float | None, expected_s: float | None
) -> None:
    router, engine = RouterConfig(slo_tpot_s=own_s), EngineConfig(itl_target_s=itl_target_s)
    settings = ServeConfig(engine=engine, router=router).router_settings
    assert settings.slo_tpot_s == expected_s


def test_a_full_decode_batch_must_leave_room_for_a_chunk() -> None:
    with pytest.raises(ValidationError, match="greater than max_num_seqs"):
        EngineConfig(max_batch_tokens=64, max_num_seqs=64)
    assert EngineConfig(max_batch_tokens=65, max_num_seqs=64).max_batch_tokens == 65


@pytest.mark.parametrize("value", ["auto", 7])
@pytest.mark.parametrize("key", ["kv_cache_gib", "max_num_seqs", "max_batch_tokens"])
def test_a_size_is_a_number_or_auto_and_travels_so(key: str, value: object) -> None:
    values = {"max_batch_tokens": 100, key: value}
    config = EngineConfig.model_validate(values)
    assert getattr(config, key) == value
    assert EngineConfig.model_validate_json(config.model_dump_json()) == config
    if value != "auto":
        # as an environment variable gives it
        assert EngineConfig.model_validate({**values, key: str(value)}) == config


def test_a_worker_s_settings_travel_as_json_and_arrive_the_same() -> None:
    spec = WorkerSpec.model_validate(
        {
            "name": "decode-0",
            "role": "decode",
            "model_dir": "/models/tiny",
            "model_name": "tiny",
            "namespace": "pdserve",
            "cores": [2, 3],
            "engine": {"block_size": 32},
        }
    )
    assert WorkerSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.cores == (2, 3)
