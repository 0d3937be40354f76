"""Trial of one model type: its own greedy tokens, and those of our engine, in float32."""

import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.decode_engine import decode_engine, idle_credit
from common.config import EngineConfig
from common.engine.build import Engine, build_engine
from common.engine.weights.foreign_towers import no_foreign_towers
from common.messages import SamplingParams, StepOutput, WorkRequest
from decode_worker.worker import make_scheduler
from pdserve.errors import SetupError
from scripts.survey.fields import TOKENS
from scripts.survey.kinds import class_and_config
from scripts.survey.outcome import Outcome
from scripts.survey.shrink import tiny_config

PROMPTS, NEW_TOKENS = (5, 70, 300), 6
_MOST_WEIGHTS = 40_000_000
_MOST_STEPS = 500
Tokens = list[list[int]]

# Steps of 48 tokens: long prompts are cut, and their chunks run beside decode.
_ENGINE = EngineConfig(
    dtype="float32",
    device="cpu",
    attention_backend="reference",
    block_size=16,
    kv_cache_gib=0.25,
    max_batch_tokens=48,
    max_num_seqs=8,
)


class NotBuiltError(Exception):
    """Raised where a model type has no tiny model that runs on its own."""


def run_trial(kind: str, folder: Path) -> Outcome:
    """Build, save, load and run one model type; `folder` is empty."""
    random.seed(0)
    prompts = [random.choices(TOKENS, k=length) for length in PROMPTS]
    try:
        model = _tiny_model(kind)
        # of a model that also speaks, the part that writes
        expected = _own_tokens(getattr(model, "thinker", model), prompts)
        model.save_pretrained(folder)
    # whatever a model type raises that was never meant to be tiny
    except Exception as error:
        return Outcome(kind, "not built", reason=_line(error))
    try:
        engine = build_engine(folder, _ENGINE, num_threads=1)
        tokens = _our_tokens(engine, prompts)
    except SetupError as error:
        reason = str(error).replace(str(folder), "the folder")
        return Outcome(kind, "refused", reason=_first(reason))
    # an error that is no refusal is a finding of the survey
    except Exception as error:
        return Outcome(kind, "failed", reason=f"{type(error).__name__}: {_line(error)}")
    path = engine.runner.path
    if tokens == expected:
        return Outcome(kind, "equal", path)
    wrong = next(i for i, one in enumerate(tokens) if one != expected[i])
    reason = f"after {PROMPTS[wrong]} tokens it gives {tokens[wrong]}, not {expected[wrong]}"
    return Outcome(kind, "differs", path, reason)


def _tiny_model(kind: str) -> Any:
    torch.manual_seed(0)
    causal, config = class_and_config(tiny_config(kind))
    with no_foreign_towers(config):
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in causal(config).parameters())
        if size > _MOST_WEIGHTS:
            raise NotBuiltError(f"the smallest has {size} weights")
        model = causal(config).eval().float()
    for name, parameter in model.named_parameters():
        # the families' own initialisation is so small that every next token is the same
        if parameter.dim() > 1 or name.endswith(("weight", "bias", "temp")):
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            nn.init.normal_(parameter, mean=float(is_norm), std=0.4)
    return model


def _own_tokens(model: Any, prompts: Tokens) -> Tokens:
    """Return the likeliest tokens, each from a whole forward pass without a cache."""
    found = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(NEW_TOKENS):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            if not bool(logits.isfinite().all()):
                raise NotBuiltError("the logits of the tiny model are not finite")
            ids.append(int(logits.argmax()))
        found.append(ids[len(prompt) :])
    return found


def _our_tokens(engine: Engine, prompts: Tokens) -> Tokens:
    """Return the tokens of a decode worker's engine that runs the prompts side by side."""
    found: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}

    def publish(step: StepOutput) -> None:
        for output in step.sequences:
            if output.failure is not None:
                raise RuntimeError(output.failure.message)
            found[output.request_id] += output.token_ids

    worker = decode_engine(engine, make_scheduler(engine, idle_credit(engine)), Path(), publish)
    sampling = SamplingParams(0.0, 0, NEW_TOKENS, ignore_eos=True)
    for name, prompt in zip(found, prompts, strict=True):
        request = WorkRequest(name, 1, tuple(prompt), sampling)
        worker.submit(engine.prefix.new_sequence(request, time.monotonic()))
    steps = 0
    while any(len(tokens) < NEW_TOKENS for tokens in found.values()):
        steps += 1
        if steps > _MOST_STEPS:
            raise RuntimeError(f"no end after {_MOST_STEPS} steps")
        worker.step()
    return list(found.values())


def _line(error: Exception) -> str:
    return _first(str(error)) or type(error).__name__


def _first(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    text = (
        lines[-1] if lines and lines[0].startswith("Class validation error") else "".join(lines[:1])
    )
    for known in ("the model is not supported: ", "the model's attention is not supported: "):
        text = text.removeprefix(known)
    return text[:200]
