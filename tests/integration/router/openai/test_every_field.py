"""Every field of OpenAI's API over HTTP: with values that work, with null, with values that do not."""

import json
from collections.abc import AsyncIterator, Iterator
from unittest.mock import ANY

import pytest
import pytest_asyncio

from common.messages import WorkRequest
from router.edge.openai.chat_request import ChatRequest
from router.edge.openai.completion_request import CompletionRequest
from router.edge.openai.fields import NoEffect, OpenAiModel, Unsupported, marker_of
from router.edge.openai.responses.request import ResponseRequest
from tests.integration.router.openai.conftest import Shared
from tests.integration.support.openai_chats import HERMES
from tests.integration.support.openai_fields import CHAT, HONOURED, LEAST, RESPONSE, TEXT
from tests.integration.support.openai_stack import OpenAiStack, openai_serving
from tests.integration.support.scripted_worker import ScriptedWorker
from tests.unit.router.tiny_tokenizer import write_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the fixtures

MODELS: dict[str, type[OpenAiModel]] = {
    CHAT: ChatRequest,
    TEXT: CompletionRequest,
    RESPONSE: ResponseRequest,
}
STRANGE: list[object] = [{"no": {"such": ["value"]}}, "x", 5]
OWN = {"id", "created", "created_at"}  # what differs between two equal answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_router(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    folder = write_folder(tmp_path_factory.mktemp("model"), chat_template=HERMES)
    worker = ScriptedWorker(script=nod)
    async with openai_serving(folder, worker) as api:
        yield Shared(api, worker)


def nod(worker: ScriptedWorker, request: WorkRequest) -> None:
    worker.say(request, "y", ends=True)


def fields(*kinds: type) -> Iterator[tuple[str, str]]:
    for path, model in MODELS.items():
        for name, field in model.model_fields.items():
            if isinstance(marker_of(field), kinds):
                yield path, name


def names_of(path: str, *kinds: type) -> set[str]:
    return {name for owner, name in fields(*kinds) if owner == path}


async def ask(api: OpenAiStack, path: str, **more: object) -> tuple[int, str]:
    response = await api.http.post(path, json={**LEAST[path], **more})
    return response.status_code, response.text


async def refused_field(api: OpenAiStack, path: str, **more: object) -> str:
    """The outermost field that a refusal names."""
    status, text = await ask(api, path, **more)
    assert status == 400, (more, text)
    param = json.loads(text)["error"]["param"]
    assert isinstance(param, str), (more, text)
    return param.partition(".")[0]


@pytest.mark.parametrize("path", MODELS)
async def test_each_honoured_field_has_values_to_try(path: str) -> None:
    assert set(HONOURED[path]) == names_of(path, type(None))


@pytest.mark.parametrize(("path", "name"), [*fields(type(None))])
async def test_an_honoured_field_takes_its_values(api: OpenAiStack, path: str, name: str) -> None:
    values = HONOURED[path][name]
    for value in values.valid:
        status, text = await ask(api, path, **values.beside, **{name: value})
        assert status == 200, (value, text)
        assert '"error":{' not in text


@pytest.mark.parametrize(("path", "name"), [*fields(type(None))])
async def test_a_value_that_cannot_be_is_refused_by_the_field_s_name(
    api: OpenAiStack, path: str, name: str
) -> None:
    values = HONOURED[path][name]
    for value in values.invalid:
        found = await refused_field(api, path, **values.beside, **{name: value})
        assert found == name, value


@pytest.mark.parametrize("path", MODELS)
async def test_null_is_as_absent(api: OpenAiStack, path: str) -> None:
    """All fields at once: what one of them changed would show."""
    everything = names_of(path, type(None), NoEffect, Unsupported)
    for name in LEAST[path]:
        assert await refused_field(api, path, **{name: None}) == name
    nulls = dict.fromkeys(everything - LEAST[path].keys())
    found = [await ask(api, path, **more) for more in ({}, nulls)]
    assert [status for status, _ in found] == [200, 200], found
    absent, null = [json.loads(text) for _, text in found]
    assert without_ids(null) == without_ids(absent)


def without_ids(answer: object) -> object:
    if isinstance(answer, list):
        return [without_ids(entry) for entry in answer]
    if not isinstance(answer, dict):
        return answer
    return {name: without_ids(value) for name, value in answer.items() if name not in OWN}


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("path", MODELS)
async def test_fields_without_effect_take_everything(
    api: OpenAiStack, path: str, value: object
) -> None:
    asked = dict.fromkeys(names_of(path, NoEffect), value)
    assert await ask(api, path, **asked) == (200, ANY)


@pytest.mark.parametrize("path", MODELS)
async def test_unsupported_fields_take_what_asks_for_nothing(api: OpenAiStack, path: str) -> None:
    neutral = {name: unsupported(path, name).neutral for name in names_of(path, Unsupported)}
    for number in range(max(map(len, neutral.values()), default=0)):
        asked = {name: some[number % len(some)] for name, some in neutral.items() if some}
        assert await ask(api, path, **asked) == (200, ANY)


@pytest.mark.parametrize(("path", "name"), [*fields(Unsupported)])
async def test_an_unsupported_field_is_refused_by_its_name(
    api: OpenAiStack, path: str, name: str
) -> None:
    for value in STRANGE:
        if value not in unsupported(path, name).neutral:
            assert await refused_field(api, path, **{name: value}) == name


def unsupported(path: str, name: str) -> Unsupported:
    marker = marker_of(MODELS[path].model_fields[name])
    assert isinstance(marker, Unsupported)
    return marker
