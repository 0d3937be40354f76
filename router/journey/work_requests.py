"""The messages that send a request's choices to their worker."""

from dataclasses import replace

from common.messages import SamplingParams, WorkRequest
from router.intake.job import Job
from router.journey.live_request import LiveChoice
from router.routing.prediction import Route


def make_work_request(
    job: Job, work_id: str, choice: LiveChoice, route: Route, timeout_s: float | None
) -> WorkRequest:
    """Return the message of a choice's present attempt, with its output so far.

    All choices of a request have the same prompt. Those at one worker are a group there.
    """
    is_group = job.num_choices > 1 or choice.attempt > 1
    prior_token_ids = tuple(choice.token_ids)
    return WorkRequest(
        request_id=choice.stream.request_id,
        attempt=choice.attempt,
        prompt_token_ids=job.prompt_token_ids,
        sampling=_go_on(job.sampling_of(choice.number), prior_token_ids),
        prefill_worker=route.prefill,
        timeout_s=timeout_s,
        cache_salt=job.salt,
        group=work_id if is_group else "",
        priority=job.worker_priority,
        prior_token_ids=prior_token_ids,
    )


def _go_on(sampling: SamplingParams, prior_token_ids: tuple[int, ...]) -> SamplingParams:
    """Return the options for the rest: the prompt's log-probabilities came with token 0."""
    has_told = bool(prior_token_ids) and sampling.prompt_logprobs is not None
    return replace(sampling, prompt_logprobs=None) if has_told else sampling
