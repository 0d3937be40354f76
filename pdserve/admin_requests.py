"""Requests of the Admin service that take time, as messages, and the time that they may take."""

from pdserve.building import build, to_seconds
from pdserve.v1 import admin_pb2

# Beside the time for draining: starts, flips and stops, each of which the router limits itself.
SCALE_WITHIN_S = 900.0


def make_scale_request(
    prefill: int | None, decode: int | None, drain_timeout_s: float
) -> admin_pb2.ScaleRequest:
    """Return the message that asks for so many workers of each role; None leaves a role as it is.

    Raises InvalidRequestError.
    """
    drain_timeout_us = _to_us("drain_timeout_s", drain_timeout_s)
    values = {"prefill": prefill, "decode": decode, "drain_timeout_us": drain_timeout_us}
    return build(admin_pb2.ScaleRequest, values)


def make_drain_request(worker: str, timeout_s: float) -> admin_pb2.DrainRequest:
    """Return the message that asks a worker to end its work and leave. Raises InvalidRequestError."""
    values = {"worker": worker, "timeout_us": _to_us("timeout_s", timeout_s)}
    return build(admin_pb2.DrainRequest, values)


def _to_us(name: str, seconds: float) -> int:
    """Return whole microseconds, at least 1: 0 would stand for the router's default."""
    return max(round(to_seconds(name, seconds) * 1e6), 1)
