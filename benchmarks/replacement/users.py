"""Users of a deployment whose workers come and go: one request after another, none given up."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import numpy as np

from benchmarks.workload import random_works
from pdserve.client import AsyncClient
from pdserve.errors import PdserveError
from pdserve.v1 import inference_pb2

_ANSWER_WITHIN_S = 120.0
_INPUTS = (64, 128)  # tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of one request."""

    start_s: float  # monotonic, as all times here
    token_times_s: tuple[float, ...]  # of messages with tokens
    worker: str  # that decoded it; "" if it was lost
    error: str = ""

    @property
    def is_lost(self) -> bool:
        """True if it ended without all its tokens."""
        return bool(self.error)


class Users:
    """Users in a closed loop, each with short prompts that no cache knows."""

    def __init__(self, client: AsyncClient, output_tokens: int, seed: int) -> None:
        self.answers: list[Answer] = []
        self._client = client
        self._draw = random.Random(seed)
        self._sampling = inference_pb2.SamplingParams(
            temperature=0.0, max_tokens=output_tokens, ignore_eos=True
        )

    @asynccontextmanager
    async def asking(self, users: int) -> AsyncGenerator[None]:
        """Let so many users ask; those that are on their way at the end get their answers."""
        is_over = asyncio.Event()

        async def use() -> None:
            while not is_over.is_set():
                self.answers.append(await self._ask())

        async with asyncio.TaskGroup() as group:
            for _ in range(users):
                group.create_task(use())
            try:
                yield
            finally:
                is_over.set()

    async def until(self, has_come: Callable[[Answer], bool], within_s: float) -> Answer:
        """Return the first answer of this kind. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while True:
                for answer in self.answers:
                    if has_come(answer):
                        return answer
                await asyncio.sleep(0.01)

    async def _ask(self) -> Answer:
        (work,) = random_works(1, self._draw.randrange(2**32), inputs=_INPUTS)
        start_s, times, tokens, worker = time.monotonic(), list[float](), 0, ""
        stream = self._client.stream(
            work.prompt_token_ids, self._sampling, timeout=_ANSWER_WITHIN_S
        )
        try:
            async with aclosing(stream):
                async for response in stream:
                    if response.token_ids:
                        times.append(time.monotonic())
                        tokens += len(response.token_ids)
                    worker = response.finished.decode_worker
        except PdserveError as error:
            return Answer(start_s, tuple(times), "", f"{type(error).__name__}: {error}")
        if tokens != self._sampling.max_tokens:
            return Answer(start_s, tuple(times), "", f"{tokens} tokens came")
        return Answer(start_s, tuple(times), worker)


def itl_ms(answers: Sequence[Answer], start_s: float, end_s: float) -> list[float]:
    """Return the gaps, in milliseconds, between tokens of which the later came in this time."""
    gaps = []
    for answer in answers:
        pairs = zip(answer.token_times_s, answer.token_times_s[1:], strict=False)
        gaps += [1000 * (late - early) for early, late in pairs if start_s <= late < end_s]
    return gaps


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, rounded to a tenth. Raises ValueError without any value."""
    if not values:
        raise ValueError("no values")
    return round(float(np.percentile(values, percent)), 1)
