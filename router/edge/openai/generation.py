"""Runs the jobs of one HTTP request and reads their deltas as one stream."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from pdserve.v1 import inference_pb2
from router.edge.openai.prompts import Prompt
from router.edge.openai.sampling_fields import SamplingFields
from router.intake.intake import Intake
from router.intake.job import Job
from router.intake.wire_values import to_int32
from router.journey.journey import Journeys
from router.journey.merge import merge
from router.journey.progress import Delta


@dataclass(frozen=True, slots=True)
class Piece:
    """A delta of one of the prompts."""

    prompt: int
    delta: Delta


class Generation:
    """Makes jobs and runs them."""

    def __init__(self, intake: Intake, journeys: Journeys) -> None:
        self._intake = intake
        self._journeys = journeys

    async def make_jobs(
        self,
        asked: SamplingFields,
        sampling: inference_pb2.SamplingParams,
        prompts: Sequence[Prompt],
        request_id: str,
    ) -> list[Job]:
        """Return a job for each prompt. Raises RequestError."""
        jobs = []
        for number, prompt in enumerate(prompts):
            name = request_id if len(prompts) == 1 else f"{request_id}-{number}"
            message = inference_pb2.GenerateRequest(
                request_id=name,
                model=asked.model,
                tokens=inference_pb2.TokenPrompt(token_ids=prompt.token_ids),
                sampling=sampling,
                cache_salt=asked.cache_salt,
                priority=to_int32(asked.priority),
            )
            jobs.append(await self._intake.parse(message))
        return jobs

    def run(self, jobs: Sequence[Job]) -> AsyncGenerator[Piece]:
        """Return a stream of all jobs' deltas. Raises RequestError; closing it cancels what runs."""
        return merge([self._run(number, job) for number, job in enumerate(jobs)])

    async def _run(self, number: int, job: Job) -> AsyncGenerator[Piece]:
        async with aclosing(self._journeys.run(job, None)) as deltas:
            async for delta in deltas:
                yield Piece(number, delta)
