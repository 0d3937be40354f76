"""Eight prompts and their undisturbed answers, for tests that disturb them."""

import random
from pathlib import Path

from common.messages import SamplingParams
from tests.integration.support.in_process_workers import Answer, Workers, expect_short_answers
from tests.unit.common.engine.tiny_models import VOCAB, engine_config

_DRAW = random.Random(9)
UNUSED_TOKEN = VOCAB - 1
PROMPTS = [
    [_DRAW.randrange(UNUSED_TOKEN) for _ in range(n)] for n in (20, 33, 7, 48, 16, 1, 30, 25)
]
ROOMY = engine_config(num_blocks=400)


def sampling(index: int, max_tokens: int = 60) -> SamplingParams:
    """Return the sampling parameters of the prompt with this index."""
    return SamplingParams(temperature=0.8, seed=index, max_tokens=max_tokens)


def run_undisturbed(model: Path) -> list[list[int]]:
    """Run the prompts one after the other with ample memory; return their tokens."""
    texts = []
    with Workers(model, decode_config=ROOMY) as workers:
        for index, prompt in enumerate(PROMPTS):
            workers.submit(str(index), prompt, sampling(index), prefill=None)
            texts.append(workers.answers.finished(str(index)).tokens)
    return texts


def run_under_pressure(workers: Workers, sources: list[str | None]) -> list[Answer]:
    """Run all prompts at once, by these prefill workers in turn (None: local); return their answers.

    Answers are expected to be short, so that all enter and too little memory is noticed late.
    """
    expect_short_answers(workers.decode)
    for index, prompt in enumerate(PROMPTS):
        workers.submit(str(index), prompt, sampling(index), prefill=sources[index % len(sources)])
    return [workers.answers.finished(str(index)) for index in range(len(PROMPTS))]
