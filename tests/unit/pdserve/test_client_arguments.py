"""Arguments of both clients that cannot be sent: each is refused by name, before any call."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor as Field

import pdserve
from pdserve.errors import InvalidRequestError, Reason, UnavailableError
from pdserve.v1 import inference_pb2
from tests.patience import WITHIN_S

NOWHERE = "127.0.0.1:1"
HALF = "a\ud800"  # half a character
SAMPLING = inference_pb2.SamplingParams.DESCRIPTOR
BEYOND: dict[int, object] = {
    Field.CPPTYPE_INT32: 2**31,
    Field.CPPTYPE_UINT32: -1,
    Field.CPPTYPE_UINT64: 2**64,
    Field.CPPTYPE_FLOAT: 10**400,
}

Bad = tuple[str, object]  # kind of fault, value


def faults(field: Field) -> Iterator[Bad]:
    """Values that a field cannot hold."""
    yield "wrong type", object()
    if field.cpp_type in BEYOND:
        yield "out of range", BEYOND[field.cpp_type]
        yield "a text", "7"
        yield "a bool", True
    if field.cpp_type == Field.CPPTYPE_STRING:
        yield "half a character", HALF


def sampling_faults() -> Iterator[tuple[str, Bad]]:
    for name, field in SAMPLING.fields_by_name.items():
        if name == "logit_bias":
            for value in ({"a": 1.0}, {-1: 1.0}, {2**32: 1.0}, {1: "a"}, {1: 10**400}, [1], "ab"):
                yield name, (f"{value!r:.20}", value)
        elif field.message_type is not None:
            yield from structured_faults(name, field)
        elif field.is_repeated:
            yield name, ("no list", 5)
            yield name, ("one text", "abc")
            yield from ((name, (fault, [bad])) for fault, bad in faults(field))
        else:
            yield from ((name, bad) for bad in faults(field))


def structured_faults(name: str, field: Field) -> Iterator[tuple[str, Bad]]:
    yield name, ("wrong type", object())
    yield name, ("another message", inference_pb2.TokenPrompt())
    assert field.message_type is not None
    for inner, form in field.message_type.fields_by_name.items():
        path = f"{name}.{inner}"
        if form.message_type is not None:
            yield path, ("wrong type", ["a"])
            yield f"{path}.texts", ("half a character", {"texts": [HALF]})
        else:
            yield from ((path, bad) for bad in faults(form))


def named(cases: Iterator[tuple[str, Bad]]) -> list[Any]:
    return [pytest.param(name, bad[1], id=f"{name}-{bad[0]}") for name, bad in cases]


@pytest.mark.parametrize(("path", "value"), named(sampling_faults()))
def test_sampling_names_the_field_that_cannot_hold_a_value(path: str, value: object) -> None:
    outer, _, inner = path.partition(".")
    values: Any = {outer: {inner.partition(".")[0]: value}} if inner else {outer: value}
    with pytest.raises(InvalidRequestError) as built:
        pdserve.SamplingParams(**values)
    with pdserve.Client(NOWHERE) as client, pytest.raises(InvalidRequestError) as sent:
        client.stream("x", values)
    for error in (built.value, sent.value):
        assert (error.reason, error.field) == (Reason.INVALID_FIELD, f"sampling.{path}")
        assert error.message


CALLS: list[tuple[str, dict[str, Any], str]] = [
    *(("generate", {"prompt": prompt}, field) for prompt, field in (
        (5, "prompt"), (None, "prompt"), (b"ab", "prompt"), ({"role": "user"}, "prompt"),
        (HALF, "text"),
        (["ab"], "chat.messages[0]"), ([("user", "a"), 5], "chat.messages[1]"),
        ([("user", HALF)], "chat.messages[0].content"), ([(5, "a")], "chat.messages[0].role"),
        ([{"role": "user", "content": 5}], "chat.messages[0].content"),
        ([{"role": "user", "name": "a"}], "chat.messages[0].name"),
        ([{5: "user"}], "chat.messages[0].5"),
        ([-1], "tokens.token_ids"), ([2**32], "tokens.token_ids"), ([1, "a"], "tokens.token_ids"),
        ([1, 2.5], "tokens.token_ids"), ([1, ("user", "a")], "tokens.token_ids"),
    )),
    *(("generate", {"prompt": "x", "sampling": bad}, field) for bad, field in (
        (5, "sampling"), ("abc", "sampling"), ({"warmth": 1}, "sampling.warmth"),
        (inference_pb2.TokenPrompt(), "sampling"),
    )),
    *(("generate", {"prompt": "x", name: bad}, name)
      for name in ("request_id", "cache_salt") for bad in (5, HALF, ["a"])),
    *(("generate", {"prompt": "x", "priority": bad}, "priority") for bad in (2**31, "1", 1.5, True)),
    *(("generate", {"prompt": "x", "timeout": bad}, "timeout") for bad in ("1", float("nan"), [1])),
    *(("chat", {"messages": bad}, field) for bad, field in ((5, "prompt"), (HALF, "text"))),
    ("chat", {"messages": [("user", "x")], "timeout": "1"}, "timeout"),
    ("chat", {"messages": [("user", "x")], "sampling": {"n": "1"}}, "sampling.n"),
    ("stream", {"prompt": "x", "resumable": object()}, "resumable"),
    *(("resume", {"request_id": bad, "next_sequence": 0}, "request_id") for bad in (5, HALF)),
    *(("resume", {"request_id": "r", "next_sequence": bad}, "resume_from") for bad in (-1, 2**32, "a")),
    *(("send", {"request": bad}, "request") for bad in (5, None, inference_pb2.TokenPrompt())),
    *((name, {"request_id": bad}, "request_id") for name in ("cancel", "explain") for bad in (5, HALF)),
    *((name, {"request_id": "r", "timeout": "1"}, "timeout") for name in ("cancel", "explain")),
    *(("tokenize", {"prompt": bad}, field) for bad, field in
      ((5, "prompt"), ([1, 2], "prompt"), (HALF, "text"), ([("user", 5)], "chat.messages[0].content"))),
    *((name, {"timeout": "1"}, "timeout") for name in ("models", "blocks", "status")),
    ("blocks", {"check": object()}, "check"),
    ("scale", {"timeout": "1"}, "timeout"), ("drain", {"worker": "w", "timeout": "1"}, "timeout"),
    *(("scale", {name: bad}, name) for name in ("prefill", "decode") for bad in (-1, 2**32, "1", 1.5)),
    *(("scale", {"drain_timeout_s": bad}, "drain_timeout_s") for bad in ("1", float("nan"))),
    *(("drain", {"worker": bad}, "worker") for bad in (5, HALF)),
    *(("drain", {"worker": "w", "timeout_s": bad}, "timeout_s") for bad in ("1", float("nan"))),
]  # fmt: skip


def test_every_call_and_every_argument_is_tried() -> None:
    calls = inspect.getmembers(pdserve.Client, inspect.isfunction)
    public = {name: call for name, call in calls if name[0] != "_"}
    assert {method for method, _, _ in CALLS} | {"close", "embed"} == set(public)
    arguments = {name for call in public.values() for name in inspect.signature(call).parameters}
    tried = {name for _, given, _ in CALLS for name in given}
    assert tried == arguments - {"self", "args", "kwargs"}


def call(client: Any, method: str, arguments: dict[str, Any]) -> object:
    """Call a method of a client without an event loop, and read its stream if it gives one."""
    found = getattr(client, method)(**arguments)
    return list(found) if inspect.isgenerator(found) else found


async def acall(client: Any, method: str, arguments: dict[str, Any]) -> object:
    """Call a method of a client for asyncio, and read its stream if it gives one."""
    found = getattr(client, method)(**arguments)
    return [part async for part in found] if inspect.isasyncgen(found) else await found


@pytest.mark.parametrize(
    ("method", "arguments", "field"),
    [pytest.param(*case, id=f"{case[0]}-{case[2]}-{n}") for n, case in enumerate(CALLS)],
)
def test_a_call_names_the_argument_that_cannot_be_sent(
    method: str, arguments: dict[str, Any], field: str
) -> None:
    async def in_loop() -> None:
        async with pdserve.AsyncClient(NOWHERE) as client:
            await acall(client, method, arguments)

    def without_loop() -> None:
        with pdserve.Client(NOWHERE) as client:
            call(client, method, arguments)

    runs: list[Callable[[], object]] = [without_loop, lambda: asyncio.run(in_loop())]
    for run in runs:
        with pytest.raises(InvalidRequestError) as caught:
            run()
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"address": 5}, "address"),
        ({"address": HALF}, "address"),
        ({"token": 5}, "token"),
        ({"token": HALF}, "token"),
        ({"token": "pds_1\n"}, "token"),
        ({"token": "é"}, "token"),
        ({"root_certificates": "pem"}, "root_certificates"),
        ({"client_certificate": b"pem"}, "client_certificate"),
        ({"client_certificate": ("key", "chain")}, "client_certificate"),
    ],
)
@pytest.mark.parametrize("kind", [pdserve.Client, pdserve.AsyncClient])
async def test_a_client_names_the_setting_that_cannot_be(
    kind: Any, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        kind(**({"address": NOWHERE} | arguments))
    assert caught.value.field == field


async def test_a_closed_client_is_unavailable() -> None:
    client = pdserve.AsyncClient(NOWHERE)
    await client.close()
    plain = pdserve.Client(NOWHERE)
    plain.close()
    with pytest.raises(UnavailableError, match="closed"):
        await client.models()
    with pytest.raises(UnavailableError, match="closed"):
        await anext(client.stream("x"))
    with pytest.raises(UnavailableError, match="closed"):
        plain.models()


@pytest.mark.parametrize("forever", [float("inf"), 1e300, 10**400])
async def test_a_timeout_of_ages_is_no_timeout_that_has_passed(forever: float) -> None:
    async with pdserve.AsyncClient(NOWHERE, retries=False) as client, asyncio.timeout(WITHIN_S):
        with pytest.raises(UnavailableError):
            await client.models(timeout=forever)
