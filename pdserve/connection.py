"""Channel settings of the clients: limits, keepalive, retries and credentials."""

import json

import grpc

from pdserve.building import check_text
from pdserve.errors import InvalidRequestError

MAX_RESPONSE_BYTES = 64 * 2**20  # log-probabilities of a long prompt come in one message

# gRPC retries a call, also a stream, only as long as nothing of its answer has come. It obeys a router that
# says when to retry, or not to ("grpc-retry-pushback-ms").
_RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
# Where there is another router, a lost one is not waited for: calls leave it after 0.07 s, not 0.7 s.
_RETRIES_AMONG_OTHERS = {**_RETRIES, "initialBackoff": "0.01s", "maxBackoff": "0.1s"}
_RETRIED = [
    {"service": "pdserve.v1.Inference"},
    {"service": "pdserve.v1.Admin", "method": "Status"},
    {"service": "pdserve.v1.Admin", "method": "Blocks"},
]
# a channel's budget: while more than one call in eleven fails, only the first five are sent again
_BUDGET = {"maxTokens": 10, "tokenRatio": 0.1}
_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),  # routers let clients ping every 10 s
    ("grpc.keepalive_timeout_ms", 10_000),
    # without this gRPC waits a minute for a ping's answer, whatever the line above says
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # 0: any number; the default stops after two
]

_CONNECT_WITHIN_MS = 2_000  # gRPC itself waits 20 s for an address that says nothing
# PEM: private key, certificate chain
Certificate = tuple[bytes, bytes]


def options(*, retries: bool, has_others: bool = False) -> list[tuple[str, str | int]]:
    """Return the channel's arguments; with `has_others` there are more routers to try soon."""
    others = [("grpc.min_reconnect_backoff_ms", _CONNECT_WITHIN_MS)] if has_others else []
    config = ("grpc.service_config", json.dumps(_service_config(has_others=has_others)))
    return [config, *_OPTIONS, *others, ("grpc.enable_retries", int(bool(retries)))]


def credentials(
    root_certificates: bytes | None, client_certificate: Certificate | None
) -> grpc.ChannelCredentials | None:
    """Return TLS credentials if either argument is given; the roots default to the system's.

    Raises InvalidRequestError for what is no PEM's bytes.
    """
    if root_certificates is None and client_certificate is None:
        return None
    if not isinstance(root_certificates, bytes | None):
        raise InvalidRequestError("must be bytes (PEM)", field="root_certificates")
    if client_certificate is not None and not _is_certificate(client_certificate):
        message = "must be a private key and a certificate chain, both bytes (PEM)"
        raise InvalidRequestError(message, field="client_certificate")
    key, chain = client_certificate or (None, None)
    return grpc.ssl_channel_credentials(root_certificates, key, chain)


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a token; none for None or an empty one.

    Raises InvalidRequestError for a token that no metadata can carry.
    """
    if token is None:
        return ()
    check_text("token", token)
    if not (token.isascii() and token.isprintable()):
        message = "holds a character that cannot be sent, perhaps a line break"
        raise InvalidRequestError(message, field="token")
    return (("authorization", f"Bearer {token}"),) if token else ()


def _is_certificate(pair: object) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return False
    return all(isinstance(part, bytes) for part in pair)


def _service_config(*, has_others: bool) -> dict[str, object]:
    policy = _RETRIES_AMONG_OTHERS if has_others else _RETRIES
    return {
        "methodConfig": [{"name": _RETRIED, "retryPolicy": policy}],
        "retryThrottling": _BUDGET,
    }
