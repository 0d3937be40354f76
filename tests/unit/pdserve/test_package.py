import json
import subprocess
import sys

import pytest

import pdserve
from pdserve.errors import (
    PdserveError,
    Reason,
    RequestError,
    SetupError,
)
from tests.patience import WITHIN_S

HEAVY = {"torch", "ray", "transformers", "numba", "numpy", "tokenizers", "pydantic"}


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules of a fresh process after the statement."""
    code = f"{statement}; import json, sys; print(json.dumps(list(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def test_the_package_alone_is_next_to_nothing() -> None:
    loaded = modules_after("import pdserve, pdserve.errors")
    assert loaded.isdisjoint(HEAVY | {"grpc", "google", "asyncio"})


def test_the_client_needs_grpc_and_nothing_of_the_engine() -> None:
    loaded = modules_after("from pdserve import AsyncClient")
    assert "grpc" in loaded
    assert loaded.isdisjoint(HEAVY | {"common", "router"})


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchClient"):
        pdserve.NoSuchClient  # noqa: B018


def test_every_request_error_has_a_reason_of_the_closed_list() -> None:
    for kind in RequestError.__subclasses__():
        assert kind.default_reason in Reason
        assert issubclass(kind, PdserveError)
    assert Reason.parse("QUEUE_FULL") is Reason.QUEUE_FULL
    assert Reason.parse("FROM_THE_FUTURE") is Reason.INTERNAL


def test_a_setup_error_ends_with_its_remedy() -> None:
    error = SetupError("grpc_port 80 is not free", "choose another")
    assert str(error) == "grpc_port 80 is not free. choose another"
    assert error.remedy == "choose another"
    assert str(SetupError("no more to say")) == "no more to say"
