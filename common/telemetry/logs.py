"""Structured logs: one JSON object a line on stderr, never a prompt or a token."""

import logging
import sys
import traceback

import structlog

from common.telemetry.log_sink import LogSink


def configure_logs(level: str = "info", *, process: str) -> None:
    """Configure logging for this process; call it once, at the entry point."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            describe_exception,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=LogSink(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(process=process)


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return the process's logger."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def describe_exception(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Add an exception's types and places to the line, but not its message, which may quote a request."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    parts = []
    while isinstance(error, BaseException):
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"{type(error).__module__}.{type(error).__qualname__}\n{frames}")
        error = error.__cause__ or error.__context__
    if parts:
        event["exception"] = "caused by ".join(parts)
    return event
