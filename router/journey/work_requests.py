"""The messages that send a request's choices to their worker."""

from common.messages import WorkRequest
from router.intake.job import Job
from router.journey.work_ids import choice_names
from router.routing.prediction import Route


def make_work_requests(
    job: Job, work_id: str, route: Route, timeout_s: float | None
) -> list[WorkRequest]:
    """Return one WorkRequest a choice, in the order of choices. All have the same prompt and route."""
    group = work_id if job.num_choices > 1 else ""
    return [
        WorkRequest(
            request_id=name,
            attempt=1,
            prompt_token_ids=job.prompt_token_ids,
            sampling=job.sampling_of(choice),
            prefill_worker=route.prefill,
            timeout_s=timeout_s,
            cache_salt=job.salt,
            group=group,
            priority=job.worker_priority,
        )
        for choice, name in enumerate(choice_names(work_id, job.num_choices))
    ]
