"""Deployments that tests of faults share: one a module."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.chaos.asking import Choice
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.questions import Question
from pdserve import connection
from pdserve.client import AsyncClient
from tests.faults.deployments import FAILPOINTS, SETTINGS, serving_tiny
from tests.faults.texts import QUESTIONS, ask_all
from tests.integration.support.processes import Served
from tests.patience import DEPLOYMENT_S, WITHIN_S
from tests.unit.common.engine.tiny_models import save_model
from tests.unit.router.tiny_tokenizer import IM_END, VOCAB_SIZE, write_folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of this folder the time that a deployment takes, and its marker."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("deployment")
            item.add_marker(pytest.mark.timeout(DEPLOYMENT_S))


@pytest.fixture(scope="session", autouse=True)
def _logs_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient_clients() -> Iterator[None]:
    """Let clients wait longer for a ping's answer: a busy machine may run no router for 10 s."""
    within_ms = round(1000 * WITHIN_S)
    waits = {"grpc.keepalive_timeout_ms": within_ms, "grpc.http2.ping_timeout_ms": within_ms}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "_OPTIONS", [*(dict(connection._OPTIONS) | waits).items()])
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random model whose tokens are bytes."""
    folder = write_folder(tmp_path_factory.mktemp("model"))
    shape = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 2048, "eos_token_id": IM_END}
    return save_model(folder, "llama", **shape)


@pytest.fixture(scope="module")
def failpoints() -> str:
    """Return the failpoints of the module's deployment."""
    return FAILPOINTS


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """Return the environment of the module's deployment."""
    return SETTINGS


@pytest.fixture(scope="module")
def deployment(
    tiny_model: Path, failpoints: str, settings: dict[str, str]
) -> Iterator[tuple[Served, list[str]]]:
    """Yield the module's deployment, and its log."""
    with serving_tiny(tiny_model, failpoints, settings) as found:
        yield found


@pytest.fixture(scope="module")
def questions() -> Sequence[Question]:
    """Return what the module asks."""
    return QUESTIONS


@pytest.fixture(scope="module")
def expected(
    deployment: tuple[Served, list[str]], questions: Sequence[Question]
) -> dict[Question, tuple[Choice, ...]]:
    """Return the answer of an undisturbed run to each question."""

    async def ask() -> dict[Question, tuple[Choice, ...]]:
        served, _ = deployment
        async with AsyncClient(served.grpc) as client:
            fleet = Fleet(client, served.grpc, served.process.pid)
            askings = await ask_all(fleet, questions, "undisturbed")
        assert [asking.error for asking in askings] == [""] * len(questions)
        return {asking.question: asking.answer() for asking in askings}

    return asyncio.run(ask())


@pytest.fixture
async def fleet(deployment: tuple[Served, list[str]]) -> AsyncIterator[Fleet]:
    """Yield the module's deployment."""
    served, _ = deployment
    async with AsyncClient(served.grpc) as client:
        yield Fleet(client, served.grpc, served.process.pid)
