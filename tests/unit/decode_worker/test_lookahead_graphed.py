"""A step ahead over captured decode steps: tokens in flight reach the graphs' inputs."""

import random
from dataclasses import replace

import pytest

from common.engine.build import Engine
from common.messages import SamplingParams
from tests.unit.common.engine.ahead import ahead
from tests.unit.common.engine.graphed import Flashed, build_flashed
from tests.unit.common.engine.plain_stage import plain_inputs
from tests.unit.common.engine.recording import RecordingCapture
from tests.unit.common.engine.tiny_models import VOCAB, save_model
from tests.unit.decode_worker.driven_engine import DrivenEngine, Said


@pytest.fixture(scope="module")
def flashed(tmp_path_factory: pytest.TempPathFactory) -> Flashed:
    return build_flashed(save_model(tmp_path_factory.mktemp("models"), "llama"), plain_inputs())


def said(engine: Engine) -> dict[tuple[str, int], Said]:
    """Run requests that come and end one by one, so that batches have every size up to seven."""
    driven = DrivenEngine(engine=engine)
    for index in range(7):
        prompt = random.Random(index).choices(range(VOCAB), k=1 + 9 * index)
        sampling = SamplingParams(0.9 * (index % 2), index, 12 + index, stop_token_ids=(7, 50))
        driven.submit(str(index), prompt, replace(sampling, top_p=0.9 if index == 3 else 1.0))
        for _ in range(index % 3):
            driven.step()
    driven.finish()
    return driven.said


def test_the_text_is_that_of_uncaptured_steps_in_step(flashed: Flashed) -> None:
    capture = RecordingCapture()
    graphed = flashed.graphed(capture, plain_inputs())
    assert said(ahead(graphed)) == said(flashed.engine)
    assert len(set(capture.replayed)) >= 3
    assert said(ahead(flashed.engine)) == said(flashed.engine)
