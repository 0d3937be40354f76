import importlib.util
import subprocess
import sys

import pytest
from pydantic import SecretStr

from common.telemetry.tracing.build import check_tracing, make_tracing
from common.telemetry.tracing.caller import Caller
from common.telemetry.tracing.tracing import NO_TRACING
from common.telemetry_config import TelemetryConfig
from pdserve.errors import SetupError
from tests.patience import WITHIN_S

ENDPOINT = "http://127.0.0.1:4318"


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert make_tracing(TelemetryConfig(), "ns", "tiny") is NO_TRACING


def test_an_endpoint_and_a_ratio_make_a_tracing_for_the_model() -> None:
    config = TelemetryConfig(otlp_endpoint=ENDPOINT, sample_ratio=0.0)
    tracing = make_tracing(config, "ns", "tiny")
    assert tracing.model == "tiny"
    assert tracing.begin(Caller()) is None


def test_an_endpoint_without_the_extra_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    check_tracing(TelemetryConfig())
    with pytest.raises(SetupError) as found:
        check_tracing(TelemetryConfig(otlp_endpoint=ENDPOINT))
    assert "telemetry.otlp_endpoint needs packages of OpenTelemetry" in str(found.value)
    assert "pip install 'pdserve[otel]'" in str(found.value)


def test_the_extra_does_not_end_ray_s_agent() -> None:
    """Ray's agent bears a package that is not there, and dies of any other failed import."""
    code = """
try:
    import ray._private.telemetry.open_telemetry_metric_recorder
except ModuleNotFoundError:
    pass
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WITHIN_S)


@pytest.mark.parametrize(
    ("name", "value"),
    [("", "x"), ("a b", "x"), ("authorization", "s3cret\r\nx: y"), ("a", ""), ("a", "é")],
)
def test_a_header_that_http_cannot_carry_is_refused_and_not_quoted(name: str, value: str) -> None:
    headers = {name: SecretStr(value)}
    with pytest.raises(SetupError, match=r"telemetry\.otlp_headers") as found:
        check_tracing(TelemetryConfig(otlp_endpoint=ENDPOINT, otlp_headers=headers))
    assert "s3cret" not in str(found.value)
