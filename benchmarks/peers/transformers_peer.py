"""Process that runs one list of requests with `transformers`, with one way of batching.

Usage: python -m benchmarks.peers.transformers_peer MODE MODEL_DIR WORKS.json SECONDS.json
"""

import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import torch
import typer
from transformers import AutoModelForCausalLM, GenerationConfig

_STATIC_BATCH = 8
_TIMEOUT_S = 600.0  # one step of 32 requests can take more than a minute on two busy cores

Prompts = list[list[int]]
Lengths = list[int]


class Mode(StrEnum):
    """Ways to run a list of requests."""

    ONE_AT_A_TIME = "one_at_a_time"
    STATIC = "static"
    CONTINUOUS = "continuous"


def main(mode: Mode, model_dir: Path, works: Path, result: Path) -> None:
    """Run the list once, after a short warm-up, and write the seconds it took."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    model.generation_config = GenerationConfig(eos_token_id=[], pad_token_id=0, do_sample=False)
    listed = json.loads(works.read_text())
    prompts, lengths = [item["prompt"] for item in listed], [item["outputs"] for item in listed]
    run = _RUNS[mode]
    with torch.inference_mode():
        run(model, prompts[:1], [2])
        start_s = time.perf_counter()
        run(model, prompts, lengths)
        seconds = time.perf_counter() - start_s
    result.write_text(json.dumps(seconds))


def _one_at_a_time(model: torch.nn.Module, prompts: Prompts, lengths: Lengths) -> None:
    for prompt, length in zip(prompts, lengths, strict=True):
        _generate(model, [prompt], length)


def _static(model: torch.nn.Module, prompts: Prompts, lengths: Lengths) -> None:
    """Run batches of eight, padded to the longest prompt and run to the longest output."""
    for first in range(0, len(prompts), _STATIC_BATCH):
        batch = slice(first, first + _STATIC_BATCH)
        _generate(model, prompts[batch], max(lengths[batch]))


def _generate(model: torch.nn.Module, prompts: Prompts, length: int) -> None:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generate(ids, attention_mask=mask, max_new_tokens=length, min_new_tokens=length)


def _continuous(model: torch.nn.Module, prompts: Prompts, lengths: Lengths) -> None:
    # generate_batch has one length for all, so use its manager: requests have their own lengths
    manager = model.init_continuous_batching(generation_config=model.generation_config)
    manager.start()
    try:
        for prompt, length in zip(prompts, lengths, strict=True):
            manager.add_request(prompt, max_new_tokens=length)
        finished = 0
        while finished < len(prompts):
            output = manager.get_result(timeout=_TIMEOUT_S)
            if output is None:
                raise RuntimeError("continuous batching stopped answering")
            finished += output.is_finished()
    finally:
        manager.stop(block=True)


_RUNS: dict[Mode, Callable[[torch.nn.Module, Prompts, Lengths], None]] = {
    Mode.ONE_AT_A_TIME: _one_at_a_time,
    Mode.STATIC: _static,
    Mode.CONTINUOUS: _continuous,
}

if __name__ == "__main__":
    typer.run(main)
