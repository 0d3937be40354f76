"""The way in that both edges share: a client's message becomes a job, or is refused and counted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pdserve.errors import RequestError
from pdserve.v1 import inference_pb2
from router.access.tenant import RequestKey, current_tenant
from router.admission.admission import Admission
from router.intake.grammar_checker import GrammarChecker
from router.intake.job import Job, Limits, parse_request
from router.intake.tokenizer import Tokenizer

_LARGE_BYTES = 2**14  # tokenizing that much takes milliseconds, which would hold up every stream


class Intake:
    """Makes jobs for the one served model."""

    def __init__(
        self,
        limits: Limits,
        tokenizer: Tokenizer,
        grammars: GrammarChecker,
        admission: Admission,
    ) -> None:
        self.limits = limits
        self.tokenizer = tokenizer
        self._grammars = grammars
        self._admission = admission

    async def parse(
        self, request: inference_pb2.GenerateRequest, *, is_repeat: bool = False
    ) -> Job:
        """Return the job that the current tenant asks for. Raises RequestError, and counts it.

        `is_repeat` is for the repeat of a resumable request that runs: no limit refuses it early.
        """
        if not is_repeat:
            self._admission.refuse_early(current_tenant(), request.request_id)
        with self.counting_refusals(request.request_id):
            parse = partial(parse_request, request, self.limits, self.tokenizer)
            is_large = request.ByteSize() > _LARGE_BYTES
            job = await asyncio.to_thread(parse) if is_large else parse()
            if job.sampling.grammar is not None:
                await self._grammars.check(job.sampling.grammar)
            return job

    @contextmanager
    def counting_refusals(self, request_id: str = "") -> Iterator[None]:
        """Count a RequestError raised inside as a refused request of the current tenant."""
        try:
            yield
        except RequestError as error:
            self._admission.count_refusal(RequestKey(current_tenant(), request_id), error)
            raise
