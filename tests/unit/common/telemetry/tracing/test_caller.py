import asyncio

import pytest

from common.telemetry.tracing.caller import (
    TraceParent,
    current_caller,
    note_caller,
    parse_traceparent,
    parse_tracestate,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f" 00-{TRACE}-{SPAN}-01 ", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_valid_traceparent_names_the_caller_s_span(header: str, is_sampled: bool) -> None:
    assert parse_traceparent(header) == TraceParent(int(TRACE, 16), int(SPAN, 16), is_sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}0-{SPAN}-01",
    ],
)
def test_anything_else_is_void(header: str) -> None:
    assert parse_traceparent(header) is None


def test_a_tracestate_is_handed_on_if_it_is_short_and_printable() -> None:
    assert parse_tracestate("rojo=1,congo=2") == "rojo=1,congo=2"
    assert parse_tracestate("a=" + "b" * 511) == ""
    assert parse_tracestate("a=\x00") == ""


async def test_each_task_has_its_own_caller() -> None:
    async def serve(headers: list[tuple[str, str | bytes]]) -> tuple[str, str]:
        note_caller("chat", headers)
        await asyncio.sleep(0)
        caller = current_caller()
        return caller.traceparent, caller.tracestate

    found = await asyncio.gather(
        serve([("traceparent", "one"), ("tracestate", "a=1"), ("tracestate", "b=2")]),
        serve([("traceparent", "two"), ("traceparent", "three")]),
        serve([("traceparent-bin", b"four"), ("authorization", "x")]),
    )
    assert list(found) == [("one", "a=1,b=2"), ("", ""), ("", "")]
    assert current_caller().arrived_s is None
