"""Many requests at once, some cancelled, some with broken transfers: the plan, and a run of it."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from common.kv_transfer.transport import KVSource
from common.kv_transfer.wire import WireItem
from common.messages import SamplingParams, WorkRequest
from tests.integration.support.in_process_workers import (
    PREFILL,
    Answer,
    Workers,
    expect_short_answers,
)
from tests.integration.support.kv_faults import (
    Meddled,
    Rewrite,
    change_at,
    die_at,
    end_at,
    flip_header,
)
from tests.unit.common.engine.tiny_models import VOCAB, engine_config

NUM_REQUESTS = 60
TIGHT = engine_config(num_blocks=14, max_num_seqs=10, max_batch_tokens=24)


class Plan:
    """Plan of each request and of its faults; the same for a seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.requests = [self._request(draw, str(index)) for index in range(NUM_REQUESTS)]
        self.fates = {r.request_id: self._fate(draw) for r in self.requests}
        self.cancel_after = {
            r.request_id: draw.randrange(12) for r in self.requests if draw.random() < 0.25
        }

    def run_undisturbed(self, model: Path) -> dict[str, list[int]]:
        """Return each request's tokens where nothing goes wrong and memory is ample."""
        with Workers(model, decode_config=engine_config(num_blocks=400)) as workers:
            for request in self.requests:
                workers.submit(request.request_id, [*request.prompt_token_ids], request.sampling)
            return {
                request.request_id: workers.answers.finished(request.request_id).tokens
                for request in self.requests
            }

    def wrap(self, source: KVSource) -> KVSource:
        """Break the streams of a prefill worker as planned."""
        return _Fated(source, self.fates)

    def run(self, workers: Workers, expected: dict[str, list[int]]) -> None:
        """Run and cancel all; check that the text of each is the expected, as far as it went."""
        expect_short_answers(workers.decode)
        for request in self.requests:
            workers.decode.submit(request)
        for name, num_tokens in self.cancel_after.items():
            workers.answers.wait(name, partial(_has_come_to, num_tokens))
            workers.decode.cancel(name)
        for name, text in expected.items():
            if name not in self.cancel_after:
                assert workers.answers.finished(name).tokens == text
        workers.check_at_rest()
        for name in self.cancel_after:
            seen = workers.answers.seen(name)
            assert seen == expected[name][: len(seen)]

    @staticmethod
    def _request(draw: random.Random, request_id: str) -> WorkRequest:
        prompt = [draw.randrange(VOCAB) for _ in range(draw.choice((1, 5, 16, 30, 47, 60)))]
        sampling = SamplingParams(draw.choice((0.0, 0.9)), int(request_id), draw.randint(1, 40))
        source = draw.choice((PREFILL, PREFILL, PREFILL, None, "prefill-9"))
        return WorkRequest(request_id, 0, tuple(prompt), sampling, source)

    @staticmethod
    def _fate(draw: random.Random) -> Rewrite:
        at = draw.randrange(4)
        twice = change_at(at, lambda item: [item, item])
        return draw.choice((iter, iter, die_at(at), end_at(at), twice, change_at(at, flip_header)))


class _Fated(Meddled):
    """A KVSource that breaks each request's stream as planned."""

    def __init__(self, source: KVSource, fates: dict[str, Rewrite]) -> None:
        super().__init__(source, iter)
        self._fates = fates

    def stream(self, request: WorkRequest) -> Iterator[WireItem]:
        return self._fates[request.request_id](self._source.stream(request))


def _has_come_to(num_tokens: int, answer: Answer) -> bool:
    return len(answer.tokens) >= num_tokens or answer.finish_reason is not None
