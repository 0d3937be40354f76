"""MODEL as a folder of safetensors: the answer equals that of `transformers`.

test_gguf_model.py has the same for a GGUF file; the default model comes from one.
"""

import asyncio
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2
from tests.integration.support.processes import run_cli, serving
from tests.unit.common.engine.tiny_models import continue_greedily, save_model
from tests.unit.common.engine.weights.edited import drop, edit
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

pytestmark = pytest.mark.deployment

PROMPT = "HELLO, IT IS LATE."
NEW_TOKENS = 12


def test_a_folder_of_safetensors_is_served_as_it_is(tmp_path: Path) -> None:
    """Serve it by a decode worker alone, which stops when it is interrupted."""
    folder = write_folder(tmp_path / "my-model")
    save_model(folder, "qwen3", vocab_size=VOCAB_SIZE)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference.generation_config.eos_token_id = None
    expected = continue_greedily(reference, list(PROMPT.encode()), NEW_TOKENS)  # a token a byte
    assert len(set(expected)) >= 3, "not lively"
    flags = ("--dtype", "float32", "--prefill", "0", "--decode", "1")
    with serving(str(folder), *flags, ended_by=signal.SIGINT) as served:
        assert asyncio.run(generate(served.grpc, "my-model")) == expected


def test_a_folder_that_lacks_a_tensor_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "my-model")
    save_model(folder, "qwen3", vocab_size=VOCAB_SIZE)
    edit(folder, drop("model.layers.1.mlp.down_proj.weight"))
    ended = run_cli("serve", str(folder), "--grpc-port", "0", "--http-port", "0", timeout_s=120.0)
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("pdserve:")]  # after the stages' lines
    assert (ended.returncode, refusals) == (2, lines[-1:]), ended.stderr
    assert "lacks the tensor model.layers.1.mlp.down_proj.weight" in lines[-1]


async def generate(address: str, name: str) -> list[int]:
    """Return the answer of a deployment, asked by its model's name."""
    sampling = inference_pb2.SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
    request = inference_pb2.GenerateRequest(model=name, text=PROMPT, sampling=sampling)
    async with AsyncClient(address) as client:
        parts = [part async for part in client.send(request)]
    return [token_id for part in parts for token_id in part.token_ids]
