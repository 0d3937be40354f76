"""Sampling defaults of silent requests, over each API of a router, and their report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_pb2_grpc

from common.messages import SamplingParams
from common.router_config import RouterConfig
from pdserve.errors import InvalidRequestError, SetupError
from pdserve.v1 import inference_pb2
from tests.integration.support.router_stack import collect, serving
from tests.integration.support.scripted_worker import BLOCK_SIZE, BLOCKS, ScriptedWorker, echo
from tests.unit.router.tiny_tokenizer import write_folder

SAID = {"temperature": 0.5, "top_k": 7, "top_p": 0.25, "min_p": 0.125, "repetition_penalty": 1.5}
OFF = RouterConfig(generation_config="off")
PDSERVES = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
ROOM = BLOCKS * BLOCK_SIZE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_generation_config(write_folder(tmp_path), SAID | {"max_new_tokens": 9})


def write_generation_config(folder: Path, content: Mapping[str, object]) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(content))
    return folder


def chosen(sampling: SamplingParams) -> dict[str, float]:
    return {name: getattr(sampling, name) for name in SAID}


async def asked_for(
    folder: Path, config: RouterConfig | None = None, **said: Any
) -> SamplingParams:
    """Return the worker's parameters of a request over pdserve.v1."""
    worker = ScriptedWorker(script=echo)
    async with serving(folder, worker, config=config) as stack:
        await collect(stack.client, "a", **said)
    return worker.requests[0].sampling


async def asked_for_by_vllms_contract(
    folder: Path, config: RouterConfig | None = None, **said: Any
) -> SamplingParams:
    worker = ScriptedWorker(script=echo)
    params = vllm_pb2.SamplingParams(**said)
    request = vllm_pb2.GenerateRequest(request_id="one", text="a", sampling_params=params)
    async with (
        serving(folder, worker, config=config) as stack,
        grpc.aio.insecure_channel(stack.address) as channel,
    ):
        stub = vllm_pb2_grpc.VllmEngineStub(channel)
        assert [answer async for answer in stub.Generate(request)]
    return worker.requests[0].sampling


async def test_a_silent_request_samples_as_the_models_makers_say(folder: Path) -> None:
    sampling = await asked_for(folder)
    assert chosen(sampling) == SAID
    assert sampling.max_tokens == 9


async def test_and_so_it_does_by_vllms_contract(folder: Path) -> None:
    sampling = await asked_for_by_vllms_contract(folder)
    assert chosen(sampling) == SAID
    assert sampling.max_tokens == 9


async def test_what_a_client_states_wins_zero_too(folder: Path) -> None:
    said: dict[str, Any] = {
        "temperature": 0.0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "max_tokens": 20,
    }
    sampling = await asked_for(folder, **said, no_top_k=True, no_min_p=True)
    assert chosen(sampling) == PDSERVES
    assert sampling.max_tokens == 20
    over_vllm = await asked_for_by_vllms_contract(folder, **said)
    assert chosen(over_vllm) == PDSERVES
    assert over_vllm.max_tokens == 20


async def test_off_ignores_the_file(folder: Path) -> None:
    sampling = await asked_for(folder, OFF)
    assert chosen(sampling) == PDSERVES
    assert sampling.max_tokens == ROOM - 1
    over_vllm = await asked_for_by_vllms_contract(folder, OFF)
    assert chosen(over_vllm) == PDSERVES | {"temperature": 1.0}


async def test_without_the_file_nothing_changes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert chosen(await asked_for(folder)) == PDSERVES
    over_vllm = await asked_for_by_vllms_contract(folder)
    assert chosen(over_vllm) == PDSERVES | {"temperature": 1.0}


@pytest.mark.parametrize(
    ("most", "said", "expected"),
    [
        (10_000, {}, ROOM - 1),  # a default above the free room must not cause a refusal
        (9, {"min_tokens": 12}, 12),  # the client asked for at least 12 tokens
        (9, {"max_tokens": 3}, 3),
    ],
)
async def test_a_default_length_yields_to_room_and_client(
    tmp_path: Path, most: int, said: dict[str, Any], expected: int
) -> None:
    folder = write_generation_config(write_folder(tmp_path), {"max_new_tokens": most})
    assert (await asked_for(folder, **said)).max_tokens == expected


@pytest.mark.parametrize(("name", "value"), [("top_k", 3), ("min_p", 0.5)])
async def test_a_value_and_its_absence_together_are_refused(
    folder: Path, name: str, value: float
) -> None:
    both: dict[str, Any] = {name: value, f"no_{name}": True}
    async with serving(folder, ScriptedWorker()) as stack:
        with pytest.raises(InvalidRequestError) as refusal:
            await collect(stack.client, "a", **both)
        assert refusal.value.field == f"sampling.no_{name}"


async def test_list_models_says_which_defaults_are_in_force(folder: Path) -> None:
    async with serving(folder, ScriptedWorker()) as stack:
        (model,) = await stack.client.models()
        tokens = await stack.client.tokenize("a")
    expected = inference_pb2.SamplingParams(**SAID, max_tokens=9)  # type: ignore[arg-type]
    assert model.sampling_defaults == expected
    assert list(tokens.token_ids) == [ord("a")]
    async with serving(folder, ScriptedWorker(), config=OFF) as stack:
        (model,) = await stack.client.models()
    assert model.sampling_defaults == inference_pb2.SamplingParams()


async def test_vllms_contract_says_them_too(folder: Path) -> None:
    async with (
        serving(folder, ScriptedWorker()) as stack,
        grpc.aio.insecure_channel(stack.address) as channel,
    ):
        stub = vllm_pb2_grpc.VllmEngineStub(channel)
        info = await stub.GetModelInfo(vllm_pb2.GetModelInfoRequest())
    assert json.loads(info.default_sampling_params_json) == SAID | {"max_tokens": 9}


async def test_a_bad_value_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    folder = write_generation_config(write_folder(tmp_path), {"top_p": 2})
    with pytest.raises(SetupError, match=r"generation_config.json: top_p is 2"):
        async with serving(folder, ScriptedWorker()):
            pass


async def test_the_router_ends_answers_where_any_file_says(tmp_path: Path) -> None:
    """The tokenizer names 257, generation_config.json 258; 999 is no token of this model."""
    folder = write_generation_config(write_folder(tmp_path), {"eos_token_id": [258, 999]})
    async with (
        serving(folder, ScriptedWorker()) as stack,
        grpc.aio.insecure_channel(stack.address) as channel,
    ):
        stub = vllm_pb2_grpc.VllmEngineStub(channel)
        info = await stub.GetModelInfo(vllm_pb2.GetModelInfoRequest())
    assert list(info.eos_token_ids) == [257, 258]
