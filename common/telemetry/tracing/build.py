"""Tracing by its settings."""

import importlib.util
import re

from common.telemetry.tracing.collector import Collector
from common.telemetry.tracing.exporter import SpanExporter
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from common.telemetry_config import TelemetryConfig
from pdserve.errors import SetupError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of a header (RFC 9110)
_VALUE = re.compile(r"[!-~](?:[ !-~]*[!-~])?")


def check_tracing(config: TelemetryConfig) -> None:
    """Raise SetupError if a header is none, or if traces are wanted without the extra `otel`."""
    for name, value in config.otlp_headers.items():
        # the value may be a secret, and is not quoted
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value.get_secret_value())):
            message = f"telemetry.otlp_headers: {name!r} or its value is not valid in HTTP"
            raise SetupError(message, "give visible ASCII characters")
    if config.otlp_endpoint is not None and not _has_extra():
        raise SetupError(
            "telemetry.otlp_endpoint needs packages of OpenTelemetry",
            "pip install 'pdserve[otel]'",
        )


def make_tracing(config: TelemetryConfig, namespace: str, model: str) -> Tracing:
    """Return the tracing of a deployment's router. Raises SetupError as `check_tracing`."""
    check_tracing(config)
    if config.otlp_endpoint is None:
        return NO_TRACING
    from common.telemetry.tracing.otlp import OtlpEncoder, num_rejected

    headers = {name: value.get_secret_value() for name, value in config.otlp_headers.items()}
    collector, encoder = Collector(config.otlp_endpoint, headers), OtlpEncoder(namespace)
    exporter = SpanExporter(lambda batch: num_rejected(collector.post(encoder.encode(batch))))
    return Tracing(exporter, config.sample_ratio, model)


def _has_extra() -> bool:
    try:
        # the second is for Ray: without it the first alone ends Ray's agent, and so its node
        found = map(importlib.util.find_spec, ("opentelemetry.proto", "opentelemetry.metrics"))
        return None not in found
    except ModuleNotFoundError:  # not even the parent
        return False
