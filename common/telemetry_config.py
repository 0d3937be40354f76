"""Settings of the router's traces."""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from common.frozen import Frozen


class TelemetryConfig(Frozen):
    """Settings of traces: their collector, and the share of requests."""

    otlp_endpoint: str | None = Field(
        None, description="Collector of traces, http://HOST:4318 (OTLP over HTTP); unset: off"
    )
    otlp_headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="HTTP headers for the collector, such as authorization"
    )
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of requests that are traced, where no caller decides"
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            _check_url(endpoint)
        return endpoint


def _check_url(endpoint: str) -> None:
    """Raise ValueError if it is no address of a collector."""
    if not endpoint.isascii() or not endpoint.isprintable() or " " in endpoint:
        raise ValueError("not a URL")
    url = urlsplit(endpoint)  # both may raise ValueError
    port = url.port
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("takes a host, a port and a path; secrets go into telemetry.otlp_headers")
