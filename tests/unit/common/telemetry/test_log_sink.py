"""Tests of a log whose stream takes no line for a while: nothing stops, and the loss is told once."""

from collections.abc import Iterator

import pytest
import structlog

from common.telemetry.log_sink import LOST, LogSink, num_lost_lines
from common.telemetry.logs import get_logger
from common.telemetry.request_log import RequestLog
from tests.unit.common.telemetry.disk_log import Disk, logging_to_a_disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    with logging_to_a_disk() as found:
        yield found


def test_a_full_disk_stops_nobody_and_one_warning_says_what_is_missing(disk: Disk) -> None:
    log = get_logger()
    log.info("before")
    disk.is_full = True
    for level in ("info", "warning", "error"):
        getattr(log, level)("lost")
    assert num_lost_lines() == 3
    disk.is_full = False
    log.info("after")
    log.info("later")
    found = [(line["event"], line["level"], line.get("num_lines")) for line in disk.lines()]
    assert found == [
        ("before", "info", None),
        ("after", "info", None),
        ("log_lines_lost", "warning", 3),
        ("later", "info", None),
    ]
    assert num_lost_lines() == 3


def test_lines_of_requests_are_counted_too(disk: Disk) -> None:
    log = RequestLog()
    disk.is_full = True
    log.write("request_ended", request_id="lost")
    disk.is_full = False
    log.write("request_ended", request_id="written")
    ended = [line for line in disk.lines() if line["event"] == "request_ended"]
    assert [(line["request_id"], line["num_lines_lost"]) for line in ended] == [("written", 1)]
    assert num_lost_lines() == 1


def test_a_warning_that_is_lost_itself_comes_later(disk: Disk) -> None:
    sink = LogSink(disk)
    disk.is_full = True
    assert sink.write("one") is LOST
    assert sink.num_lost == 1
    disk.is_full = False
    assert sink.write("two") is None
    assert disk.getvalue().startswith("two\n")


def test_a_closed_stream_is_no_error(disk: Disk) -> None:
    disk.close()
    get_logger().error("lost")
    assert num_lost_lines() == 1


def test_a_process_that_configured_no_log_has_lost_none(disk: Disk) -> None:
    disk.is_full = True
    get_logger().error("lost")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())  # the fixture restores it
    assert num_lost_lines() == 0
