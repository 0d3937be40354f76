"""MODEL as a GGUF file and as a folder of safetensors: answers equal those of `transformers`."""

import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from common.cache_dir import default_cache_dir
from common.engine.weights.cache import entry_name
from pdserve.client import AsyncClient
from pdserve.v1 import inference_pb2
from tests.integration.support.processes import run_cli, serving
from tests.unit.common.engine.tiny_models import continue_greedily, save_model
from tests.unit.common.engine.weights.edited import drop, edit
from tests.unit.common.engine.weights.tiny_gguf import GgufOptions, random_tensors, write_gguf
from tests.unit.router.tiny_tokenizer import VOCAB_SIZE, write_folder

pytestmark = pytest.mark.deployment

PROMPT = "HELLO, IT IS LATE."  # the GGUF file has no small letters
NEW_TOKENS = 12


def test_a_gguf_file_is_converted_and_served_by_both_roles(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf, random_tensors(), GgufOptions())
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    prompt = AutoTokenizer.from_pretrained(tmp_path, gguf_file=gguf.name).encode(PROMPT)
    entry = default_cache_dir() / entry_name(hashlib.sha256(gguf.read_bytes()).hexdigest())
    try:
        tokens = answer(str(gguf), "tiny", "--prefill", "1")
        assert (entry / "model.safetensors").is_file()
    finally:
        shutil.rmtree(entry, ignore_errors=True)
    assert tokens == continuation(reference, prompt)


def test_a_folder_of_safetensors_is_served_as_it_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "my-model")
    save_model(folder, "qwen3", vocab_size=VOCAB_SIZE)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = list(PROMPT.encode())  # its tokenizer has one token a byte
    tokens = answer(str(folder), "my-model", "--prefill", "0")
    assert tokens == continuation(reference, prompt)


def test_a_folder_that_lacks_a_tensor_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "my-model")
    save_model(folder, "qwen3", vocab_size=VOCAB_SIZE)
    edit(folder, drop("model.layers.1.mlp.down_proj.weight"))
    ended = run_cli("serve", str(folder), "--grpc-port", "0", "--http-port", "0", timeout_s=120.0)
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("pdserve:")]  # after the stages' lines
    assert (ended.returncode, refusals) == (2, lines[-1:]), ended.stderr
    assert "lacks the tensor model.layers.1.mlp.down_proj.weight" in lines[-1]


def answer(model: str, name: str, *flags: str) -> list[int]:
    """Return the answer of a deployment of MODEL, asked by its name."""
    with serving(model, "--dtype", "float32", "--decode", "1", *flags) as served:
        return asyncio.run(generate(served.grpc, name))


async def generate(address: str, name: str) -> list[int]:
    sampling = inference_pb2.SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
    request = inference_pb2.GenerateRequest(model=name, text=PROMPT, sampling=sampling)
    async with AsyncClient(address) as client:
        parts = [part async for part in client.send(request)]
    return [token_id for part in parts for token_id in part.token_ids]


def continuation(reference: Any, prompt: list[int]) -> list[int]:
    reference.generation_config.eos_token_id = None
    tokens = continue_greedily(reference, prompt, NEW_TOKENS)
    assert len(set(tokens)) >= 3, "not lively"
    return tokens
