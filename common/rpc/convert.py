"""Conversion between the worker protocol's messages and our dataclasses."""

from common.messages import (
    FinishReason,
    Role,
    SequenceOutput,
    StepOutput,
    WorkerInfo,
    WorkerLoad,
    WorkFailure,
    WorkRequest,
)
from common.rpc.convert_routing import (
    correction_from_pb,
    correction_to_pb,
    profile_from_pb,
    profile_to_pb,
)
from common.rpc.convert_sampling import (
    logprobs_from_pb,
    logprobs_to_pb,
    sampling_from_pb,
    sampling_to_pb,
)
from common.rpc.convert_timings import timings_from_pb, timings_to_pb, to_us
from pdserve.errors import Reason
from pdserve.v1 import admin_pb2, inference_pb2, worker_pb2

_FINISH_TO_PB = {
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}
_FINISH_FROM_PB = {number: reason for reason, number in _FINISH_TO_PB.items()}
_ROLE_TO_PB = {
    Role.PREFILL: admin_pb2.WORKER_ROLE_PREFILL,
    Role.DECODE: admin_pb2.WORKER_ROLE_DECODE,
}
_COUNTS = tuple(WorkerLoad.__dataclass_fields__.keys() - {"progress_age_s", "correction"})
_ROLE_FROM_PB = {number: role for role, number in _ROLE_TO_PB.items()}


def finish_to_pb(reason: FinishReason | None) -> inference_pb2.FinishReason.ValueType:
    """Convert a finish reason to its enum; None becomes UNSPECIFIED."""
    return _FINISH_TO_PB[reason] if reason else inference_pb2.FINISH_REASON_UNSPECIFIED


def role_to_pb(role: Role) -> admin_pb2.WorkerRole.ValueType:
    """Convert a role to its enum."""
    return _ROLE_TO_PB[role]


def request_to_pb(request: WorkRequest) -> worker_pb2.SubmitRequest:
    """Convert a worker's request to its message."""
    return worker_pb2.SubmitRequest(
        request_id=request.request_id,
        attempt=request.attempt,
        prompt_token_ids=request.prompt_token_ids,
        prior_token_ids=request.prior_token_ids,
        sampling=sampling_to_pb(request.sampling),
        prefill_worker=request.prefill_worker or "",
        cache_salt=request.cache_salt,
        group=request.group,
        priority=request.priority,
        # 0 stands for "no deadline", which a deadline that has just passed must not become
        timeout_us=max(to_us(request.timeout_s), 1) if request.timeout_s is not None else 0,
        bad_words=[worker_pb2.BadWord(token_ids=word) for word in request.sampling.bad_words],
    )


def request_from_pb(message: worker_pb2.SubmitRequest) -> WorkRequest:
    """Convert a message to a worker's request."""
    return WorkRequest(
        request_id=message.request_id,
        attempt=message.attempt,
        prompt_token_ids=tuple(message.prompt_token_ids),
        prior_token_ids=tuple(message.prior_token_ids),
        sampling=sampling_from_pb(message.sampling, message.bad_words),
        prefill_worker=message.prefill_worker or None,
        cache_salt=message.cache_salt,
        group=message.group,
        priority=message.priority,
        timeout_s=message.timeout_us / 1e6 if message.timeout_us else None,
    )


def step_to_pb(step: StepOutput) -> worker_pb2.StepOutput:
    """Convert one step's outputs to their message."""
    return worker_pb2.StepOutput(sequences=[_output_to_pb(output) for output in step.sequences])


def step_from_pb(message: worker_pb2.StepOutput) -> tuple[SequenceOutput, ...]:
    """Convert a message to one step's outputs."""
    return tuple(_output_from_pb(output) for output in message.sequences)


def load_to_pb(load: WorkerLoad) -> admin_pb2.WorkerLoad:
    """Convert a load report to its message."""
    return admin_pb2.WorkerLoad(
        **{name: getattr(load, name) for name in _COUNTS},
        correction=correction_to_pb(load.correction),
        progress_age_us=to_us(load.progress_age_s),
    )


def load_from_pb(message: admin_pb2.WorkerLoad) -> WorkerLoad:
    """Convert a message to a load report."""
    values = {name: getattr(message, name) for name in _COUNTS}
    if message.HasField("correction"):
        values["correction"] = correction_from_pb(message.correction)
    return WorkerLoad(**values, progress_age_s=message.progress_age_us / 1e6)


def info_to_pb(info: WorkerInfo) -> worker_pb2.WorkerInfo:
    """Convert a worker's identity to its message."""
    fields = {name: getattr(info, name) for name in WorkerInfo.__dataclass_fields__}
    fields |= {"role": _ROLE_TO_PB[info.role], "profile": profile_to_pb(info.profile)}
    return worker_pb2.WorkerInfo(**fields)


def info_from_pb(message: worker_pb2.WorkerInfo) -> WorkerInfo:
    """Convert a message to a worker's identity."""
    values = {name: getattr(message, name) for name in WorkerInfo.__dataclass_fields__}
    values |= {"role": _ROLE_FROM_PB[message.role], "profile": profile_from_pb(message.profile)}
    return WorkerInfo(**values)


def _output_to_pb(output: SequenceOutput) -> worker_pb2.SequenceOutput:
    message = worker_pb2.SequenceOutput(
        request_id=output.request_id,
        index=output.index,
        token_ids=output.token_ids,
        finish_reason=finish_to_pb(output.finish_reason),
        logprobs=map(logprobs_to_pb, output.logprobs),
        prompt_logprobs=map(logprobs_to_pb, output.prompt_logprobs),
    )
    if output.failure:
        message.error.reason = output.failure.reason
        message.error.message = output.failure.message
    if output.timings:
        message.timings.CopyFrom(timings_to_pb(output.timings))
    return message


def _output_from_pb(message: worker_pb2.SequenceOutput) -> SequenceOutput:
    failure = None
    if message.HasField("error"):
        failure = WorkFailure(Reason.parse(message.error.reason), message.error.message)
    return SequenceOutput(
        request_id=message.request_id,
        index=message.index,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH_FROM_PB.get(message.finish_reason),
        failure=failure,
        timings=timings_from_pb(message.timings) if message.HasField("timings") else None,
        logprobs=tuple(map(logprobs_from_pb, message.logprobs)),
        prompt_logprobs=tuple(map(logprobs_from_pb, message.prompt_logprobs)),
    )
