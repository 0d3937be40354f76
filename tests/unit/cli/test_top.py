"""`pdserve top`: rates of two polls, one frame in a pipe, and a screen that Ctrl-C ends."""

import asyncio
import io
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from rich.console import Console

from cli.rates import Frame, Poll, RouterRates, WorkerRates, router_rates, worker_rates
from cli.top import frames
from cli.top_view import blocks_bar, view
from pdserve.client import AsyncClient
from pdserve.errors import UnavailableError
from pdserve.v1 import admin_pb2
from tests.patience import WITHIN_S
from tests.unit.cli.conftest import Run

NAMES = ("prefill-1023", "decode-255")
# as a terminal has it: a suite that runs in the background has Ctrl-C ignored
TOP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "pdserve"
from cli.main import main
main()
"""


def status(number: int, incarnation: str = "a") -> admin_pb2.StatusResponse:
    """Return the answer to a poll: counters that grow from one number to the next."""
    totals = admin_pb2.Outcomes(
        completed=10 * number, rejected=3 * number, failed=number, cancelled=7
    )
    router = admin_pb2.RouterStatus(
        model="a-model", requests_in_flight=12, requests_queued=5, totals=totals
    )
    load = admin_pb2.WorkerLoad(
        num_running=4,
        num_waiting=2,
        blocks_total=100,
        blocks_free=25,
        prefill_tokens=1000 * number,
        output_tokens=50 * number,
    )
    workers = [
        admin_pb2.WorkerStatus(
            name=NAMES[0],
            role=admin_pb2.WORKER_ROLE_PREFILL,
            state=admin_pb2.WORKER_STATE_READY,
            incarnation=incarnation,
            load=load,
        ),
        admin_pb2.WorkerStatus(
            name=NAMES[1],
            role=admin_pb2.WORKER_ROLE_DECODE,
            state=admin_pb2.WORKER_STATE_UNREACHABLE,
            incarnation="b",
        ),
    ]
    return admin_pb2.StatusResponse(router=router, workers=workers)


FRAME = Frame(Poll(12.0, status(3)), before=Poll(10.0, status(1)))


class Router:
    """Stand-in for a router; answers the n-th poll with `status(n)`."""

    def __init__(self) -> None:
        self.num_polls = 0
        self.is_away = False
        self.was_polled_twice = threading.Event()

    def status(
        self, _: admin_pb2.StatusRequest, context: grpc.ServicerContext
    ) -> admin_pb2.StatusResponse:
        self.num_polls += 1
        if self.num_polls > 1:
            self.was_polled_twice.set()
        if self.is_away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return status(self.num_polls)


@pytest.fixture
def router() -> Iterator[tuple[Router, str]]:
    """Yield a router and its address."""
    service = Router()
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(
        service.status,
        request_deserializer=admin_pb2.StatusRequest.FromString,
        response_serializer=admin_pb2.StatusResponse.SerializeToString,
    )
    admin = grpc.method_handlers_generic_handler("pdserve.v1.Admin", {"Status": handler})
    server.add_generic_rpc_handlers((admin,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"127.0.0.1:{port}"
    server.stop(None).wait(WITHIN_S)


def shown(frame: Frame, width: int, max_workers: int | None = None) -> str:
    out = io.StringIO()
    Console(width=width, file=out).print(view(frame, max_workers), soft_wrap=True, highlight=False)
    return out.getvalue()


def test_rates_are_differences_over_the_time_between() -> None:
    assert router_rates(FRAME) == RouterRates(10.0, 3.0, 1.0)
    assert worker_rates(FRAME) == [WorkerRates(1000.0, 50.0), WorkerRates()]


def test_one_poll_or_counters_that_begin_anew_tell_no_rate() -> None:
    first = Frame(Poll(1.0, status(1)))
    assert (router_rates(first), set(worker_rates(first))) == (RouterRates(), {WorkerRates()})
    restarted = Frame(Poll(2.0, status(1, "c")), before=Poll(1.0, status(9)))
    assert (router_rates(restarted), worker_rates(restarted)[0]) == (RouterRates(), WorkerRates())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_numbers_and_whole_names_are_shown(width: int) -> None:
    text = shown(FRAME, width)
    for name in NAMES:
        assert name in text
    assert "12 in flight, 5 queued" in text
    assert "30 completed (10.0/s), 9 refused (3.0/s), 3 failed (1.0/s), 7 cancelled" in text
    assert "50.0 output, 1000.0 prompt" in text
    if width >= 80:
        row = next(line for line in text.splitlines() if NAMES[0] in line)
        assert row.split()[2:6] == ["ready", "4", "2", "████████░░"]
        assert "75%" in row


def test_a_bar_shows_the_share_of_used_blocks() -> None:
    load = admin_pb2.WorkerLoad(blocks_total=10, blocks_free=10)
    assert str(blocks_bar(load)) == "░" * 10 + "   0%"
    load.blocks_free = 0
    assert str(blocks_bar(load)) == "█" * 10 + " 100%"
    assert str(blocks_bar(admin_pb2.WorkerLoad())).endswith(" 0%")


def test_workers_beyond_the_screen_are_counted() -> None:
    text = shown(FRAME, 80, max_workers=1)
    assert "and 1 more" in text
    assert NAMES[1] not in text


async def test_a_router_that_stops_answering_leaves_the_last_numbers_and_says_so(
    router: tuple[Router, str],
) -> None:
    service, address = router
    async with AsyncClient(address) as client:
        polled = frames(client, 0.01)
        first = await asyncio.wait_for(anext(polled), WITHIN_S)
        service.is_away = True
        second = await asyncio.wait_for(anext(polled), WITHIN_S)
        service.is_away = False
        third = await asyncio.wait_for(anext(polled), WITHIN_S)
    assert (second.now, third.problem, third.before) == (first.now, None, first.now)
    assert isinstance(second.problem, UnavailableError)
    assert f"no news: {second.problem.message}" in shown(second, 200)


def test_once_prints_one_frame_without_colour(run: Run, router: tuple[Router, str]) -> None:
    service, address = router
    ended = run("top", "--once", "--interval", "0.1", "--address", address)
    assert (ended.code, ended.err, service.num_polls) == (0, "", 2)
    assert "a-model  2 workers" in ended.out
    assert "20 completed" in ended.out
    assert "- output" not in ended.out, "two polls tell the rates"
    assert "\x1b" not in ended.out


def test_a_pipe_without_once_and_a_router_that_is_away_are_one_line(run: Run) -> None:
    assert "--once" in run("top").line
    assert run("top").code == 2
    away = run("top", "--once", "--address", "127.0.0.1:1")
    assert (away.code, away.line.startswith("pdserve: ")) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_screen_with_code_0(
    router: tuple[Router, str], number: signal.Signals
) -> None:
    service, address = router
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", TOP, "top", "--interval", "0.1", "--address", address]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment
    )
    os.close(theirs)
    try:
        seen = read_until(ours, NAMES[1].encode())
        assert service.was_polled_twice.wait(WITHIN_S)
        process.send_signal(number)
        seen += read_until(ours, b"\x1b[?1049l")  # that screen is left
        assert process.wait(WITHIN_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    assert b"12 in flight" in seen
    assert b"\x1b[?1049h" in seen, "on a screen of its own"
    assert b"\x1b[?25h" in seen, "the cursor is shown again"


def read_until(terminal: int, end: bytes) -> bytes:
    """Return what a terminal gets up to these bytes; pytest's own timeout is the deadline."""
    seen = b""
    while end not in seen:
        seen += os.read(terminal, 65_536)
    return seen
