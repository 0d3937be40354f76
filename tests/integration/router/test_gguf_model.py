"""MODEL as a GGUF file, converted and served by both roles: the answer equals that of `transformers`."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from common.engine.weights.progress import NoProgress
from common.engine.weights.resolve import resolve_model
from common.rpc.worker_host import WorkerHost
from tests.integration.support.in_process_workers import Workers
from tests.integration.support.router_stack import ALWAYS_PREFILL, HOST, collect, routing
from tests.patience import WITHIN_S
from tests.unit.common.engine.tiny_models import continue_greedily
from tests.unit.common.engine.weights.tiny_gguf import GgufOptions, random_tensors, write_gguf

PROMPT = "HELLO, IT IS LATE."  # the file has no small letters
NEW_TOKENS = 12


async def test_a_gguf_file_is_converted_and_served_by_both_roles(tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf, random_tensors(), GgufOptions())
    source = resolve_model(str(gguf), tmp_path / "cache", NoProgress())
    assert source.name == "tiny"
    with Workers(source.path) as workers:
        hosts = [WorkerHost(worker, HOST) for worker in (workers.prefill, workers.decode)]
        addresses = [host.start() for host in hosts]
        async with routing(source.path, addresses, ALWAYS_PREFILL) as stack:
            parts = await collect(stack.client, PROMPT, max_tokens=NEW_TOKENS, ignore_eos=True)
        for host in hosts:
            host.stop(WITHIN_S)
    assert parts[-1].finished.prefill_worker == "prefill-0"
    assert [token for part in parts for token in part.token_ids] == continuation(gguf)


def continuation(gguf: Path) -> list[int]:
    reference = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    reference.generation_config.eos_token_id = None
    prompt = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).encode(PROMPT)
    tokens = continue_greedily(reference, prompt, NEW_TOKENS)
    assert len(set(tokens)) >= 3, "not lively"
    return tokens
