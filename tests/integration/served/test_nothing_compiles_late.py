"""Kernels are all compiled before `pdserve ready`: no request waits for a compiler."""

import json

import pdserve
from common.telemetry.log_files import default_log_dir
from pdserve.v1.inference_pb2 import SamplingParams, StructuredOutput
from tests.integration.support.processes import Served

LONG = "The quick brown fox jumps over the lazy dog. " * 90  # more than a step's tokens
EVERY_KIND = {
    "greedy": SamplingParams(temperature=0, max_tokens=8),
    "drawn": SamplingParams(temperature=0.9, max_tokens=8, seed=1),
    "top k": SamplingParams(temperature=0.9, top_k=20, max_tokens=4),
    "top p": SamplingParams(temperature=0.9, top_p=0.8, max_tokens=4),
    "min p": SamplingParams(temperature=0.9, min_p=0.05, max_tokens=4),
    "penalties": SamplingParams(
        temperature=0.5,
        max_tokens=4,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        logit_bias={5: 2.0},
        min_tokens=2,
    ),
    "logprobs": SamplingParams(temperature=0, max_tokens=4, logprobs=3, prompt_logprobs=2),
    "choices": SamplingParams(temperature=1, max_tokens=4, n=3, seed=7),
    "bans": SamplingParams(temperature=0, max_tokens=4, bad_words=["the", "one, two"]),
    "a form": SamplingParams(
        temperature=0.7, max_tokens=6, structured_output=StructuredOutput(regex="[a-z ]{1,20}")
    ),
}


def compiled(served: Served) -> list[str]:
    """Return the kernels that any worker compiled after it was ready."""
    names = []
    for file in default_log_dir().glob("*/*/*.log"):
        lines = [json.loads(line) for line in file.read_text().splitlines() if line[:1] == "{"]
        events = [line["event"] for line in lines]
        if "worker_ready" in events:
            late = lines[events.index("worker_ready") :]
            names += [line["kernel"] for line in late if line["event"] == "kernel_compiled"]
    return names


def test_the_first_requests_of_every_kind_compile_nothing(served: Served) -> None:
    with pdserve.Client(served.grpc) as client:
        for name, sampling in EVERY_KIND.items():
            # all long ones but the first find most of their tokens in the caches
            for prompt in (f"{name}: one, two,", f"{LONG}{name}", f"{name}: one, two, three"):
                assert client.generate(prompt, sampling).choices[0].token_ids
    assert compiled(served) == []
