from pathlib import Path

import pytest

from cli.settings import load_config
from common.telemetry_config import TelemetryConfig
from pdserve.errors import SetupError


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://collector:4318",
        "https://collector.example/otlp/v1/traces",
        "http://[::1]:4318",
        "http://127.0.0.1",
    ],
)
def test_a_collector_is_named_by_a_url(endpoint: str) -> None:
    assert TelemetryConfig(otlp_endpoint=endpoint).otlp_endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "collector:4318",
        "grpc://collector:4317",
        "http://",
        "http://:4318",
        "http://collector:port",
        "http://collector:70000",
        "http://collector:0",
        "http://user:secret@collector:4318",
        "http://collector:4318?token=x",
        "http://collector:4318#x",
        "http://colle ctor:4318",
        "http://collector:4318\n",
        "http://[::1:4318",
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_the_key(endpoint: str) -> None:
    with pytest.raises(SetupError, match=r"^telemetry\.otlp_endpoint: ") as found:
        load_config(None, {"telemetry.otlp_endpoint": endpoint})
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_is_a_share(ratio: float) -> None:
    with pytest.raises(SetupError, match=r"^telemetry\.sample_ratio: "):
        load_config(None, {"telemetry.sample_ratio": ratio})


def test_headers_come_from_the_file_and_are_secret(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("telemetry:\n  otlp_headers:\n    authorization: Bearer s3cret\n")
    config = load_config(file, {})
    assert config.telemetry.otlp_headers["authorization"].get_secret_value() == "Bearer s3cret"
    assert "s3cret" not in repr(config)
