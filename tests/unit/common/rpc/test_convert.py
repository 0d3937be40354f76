import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import (
    FinishReason,
    Grammar,
    GrammarKind,
    Role,
    SamplingParams,
    SequenceOutput,
    StepOutput,
    TokenLogprobs,
    WorkerInfo,
    WorkerLoad,
    WorkFailure,
    WorkRequest,
)
from common.prefix_log import PrefixUpdate
from common.profile import Correction, WorkerProfile
from common.rpc.convert import (
    finish_to_pb,
    info_from_pb,
    info_to_pb,
    load_from_pb,
    load_to_pb,
    request_from_pb,
    request_to_pb,
    role_to_pb,
    step_from_pb,
    step_to_pb,
)
from common.rpc.convert_routing import prefixes_from_pb, prefixes_to_pb
from common.rpc.convert_timings import timings_from_pb, timings_to_pb, to_us
from common.timings import DecodeStepTiming, PrefillChunkTiming, TransferTiming, WorkTimings
from pdserve.errors import Reason
from pdserve.v1 import admin_pb2, inference_pb2, worker_pb2

no_deadline = settings(deadline=None, derandomize=True)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
i64 = st.integers(0, 2**63 - 1)
token_ids = st.lists(u32, max_size=5).map(tuple)
# the wire has whole microseconds; up to 30 years, so that a float holds each exactly
seconds = st.integers(0, 10**15).map(lambda us: us / 1e6)
names = st.text(max_size=10)
f32 = st.floats(width=32, allow_nan=False)
biases = st.dictionaries(u32, f32, max_size=4).map(lambda found: tuple(sorted(found.items())))
single = st.sampled_from([kind for kind in GrammarKind if kind is not GrammarKind.CHOICE])
grammars = st.builds(Grammar, single, st.tuples(st.text(max_size=10)), st.booleans()) | st.builds(
    Grammar, st.just(GrammarKind.CHOICE), st.lists(st.text(max_size=5), max_size=3).map(tuple)
)
sampling = st.builds(
    SamplingParams,
    temperature=f32,
    seed=u64,
    max_tokens=i32,
    stop_token_ids=token_ids,
    ignore_eos=st.booleans(),
    top_k=i32,
    top_p=f32,
    min_p=f32,
    repetition_penalty=f32,
    presence_penalty=f32,
    frequency_penalty=f32,
    logit_bias=biases,
    min_tokens=i32,
    logprobs=st.none() | i32,
    prompt_logprobs=st.none() | i32,
    grammar=st.none() | grammars,
    bad_words=st.lists(token_ids, max_size=3).map(tuple),
    allowed_token_ids=token_ids,
)
logprobs = st.builds(
    TokenLogprobs,
    logprob=f32,
    top_token_ids=token_ids,
    top_logprobs=st.lists(f32, max_size=5).map(tuple),
)
several_logprobs = st.lists(logprobs, max_size=3).map(tuple)
requests = st.builds(
    WorkRequest,
    request_id=names,
    attempt=u32,
    prompt_token_ids=token_ids,
    sampling=sampling,
    prefill_worker=st.none() | st.text(min_size=1, max_size=10),
    timeout_s=st.none() | seconds.filter(bool),
    cache_salt=names,
    group=names,
    priority=st.integers(-(2**31), 2**31 - 1),
)
chunks = st.builds(PrefillChunkTiming, seconds, seconds, u32, st.booleans())
transfers = st.builds(TransferTiming, *[seconds] * 5, u32, i64)
steps = st.builds(DecodeStepTiming, seconds, seconds, u32, u32)
timings = st.builds(
    WorkTimings,
    queue_s=seconds,
    prefill_chunks=st.lists(chunks, max_size=3).map(tuple),
    handoff_s=seconds,
    kv_bytes=i64,
    num_preemptions=u32,
    num_cached_tokens=u32,
    pull_s=st.none() | seconds.filter(bool),
    transfers=st.lists(transfers, max_size=3).map(tuple),
    decode_steps=st.lists(steps, max_size=3).map(tuple),
    num_decode_steps=u32,
    clock_error_s=seconds,
)
outputs = st.builds(
    SequenceOutput,
    request_id=names,
    index=u32,
    token_ids=token_ids,
    finish_reason=st.none() | st.sampled_from(FinishReason),
    failure=st.none() | st.builds(WorkFailure, st.sampled_from(Reason), names),
    timings=st.none() | timings,
    logprobs=several_logprobs,
    prompt_logprobs=several_logprobs,
)
costs = st.floats(0, 1e6)
corrections = st.builds(Correction, *[costs] * 5)
profiles = st.builds(
    WorkerProfile,
    row_seconds=st.tuples(costs, costs),
    **dict.fromkeys(("sample_s", "position_s", "pair_s", "copy_out_byte_s"), costs),
    insert_byte_s=costs,
    kv_bytes_per_token=u32,
    state_bytes=u64,
    **dict.fromkeys(("max_batch_tokens", "max_num_seqs"), st.integers(1, 2**32 - 1)),
)
digests = st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(tuple)
prefixes = st.builds(
    PrefixUpdate, start=u64, end=u64, is_snapshot=st.booleans(), added=digests, removed=digests
)
infos = st.builds(
    WorkerInfo,
    name=names,
    role=st.sampled_from(Role),
    pid=u32,
    incarnation=names,
    model_fingerprint=names,
    max_context_tokens=u32,
    vocab_size=u32,
    profile=profiles,
    dtype=names,
    wire_version=u32,
    dtype_reason=names,
)
_NARROW = {"num_running", "num_waiting", "num_waiting_tokens", "num_submitted"}
_NARROW |= {"backlog_tokens", "block_size"}
_COUNTS = {
    name: u32 if name in _NARROW or name.startswith("blocks_") else u64
    for name in WorkerLoad.__dataclass_fields__
    if name not in ("progress_age_s", "correction", "is_draining")
}
loads = st.builds(
    WorkerLoad,
    **_COUNTS,
    progress_age_s=seconds,
    correction=corrections,
    is_draining=st.booleans(),
)


@no_deadline
@given(requests)
def test_a_job_arrives_as_it_was_sent(request_: WorkRequest) -> None:
    wire = request_to_pb(request_).SerializeToString()
    assert request_from_pb(worker_pb2.SubmitRequest.FromString(wire)) == request_


@no_deadline
@given(st.lists(outputs, max_size=3).map(tuple))
def test_a_step_arrives_as_it_was_sent(sequences: tuple[SequenceOutput, ...]) -> None:
    wire = step_to_pb(StepOutput(sequences)).SerializeToString()
    assert step_from_pb(worker_pb2.StepOutput.FromString(wire)) == sequences


@no_deadline
@given(timings)
def test_timings_arrive_as_they_were_sent(work: WorkTimings) -> None:
    wire = timings_to_pb(work).SerializeToString()
    assert timings_from_pb(inference_pb2.Timings.FromString(wire)) == work


@no_deadline
@given(loads)
def test_a_load_report_arrives_as_it_was_sent(load: WorkerLoad) -> None:
    wire = load_to_pb(load).SerializeToString()
    assert load_from_pb(admin_pb2.WorkerLoad.FromString(wire)) == load


@no_deadline
@given(infos)
def test_an_identity_arrives_as_it_was_sent(info: WorkerInfo) -> None:
    wire = info_to_pb(info).SerializeToString()
    assert info_from_pb(worker_pb2.WorkerInfo.FromString(wire)) == info


@no_deadline
@given(prefixes)
def test_a_prefix_update_arrives_as_it_was_sent(update: PrefixUpdate) -> None:
    wire = prefixes_to_pb(update).SerializeToString()
    assert prefixes_from_pb(worker_pb2.PrefixUpdate.FromString(wire)) == update


def test_numbers_that_cannot_be_reckoned_with_become_guesses() -> None:
    info = WorkerInfo("d", Role.DECODE, 1, "i", "m", 1, 1, WorkerProfile(row_counts=(1,)))
    assert info_from_pb(info_to_pb(info)).profile == WorkerProfile()
    assert (
        info_from_pb(worker_pb2.WorkerInfo(role=admin_pb2.WORKER_ROLE_DECODE)).profile
        == WorkerProfile()
    )
    assert load_from_pb(admin_pb2.WorkerLoad()).correction == Correction()


def test_no_prefill_worker_and_no_deadline_are_empty_on_the_wire() -> None:
    request = WorkRequest("r", 1, (1,), SamplingParams(0.0, 0, 1))
    message = request_to_pb(request)
    assert (message.prefill_worker, message.timeout_us) == ("", 0)


@pytest.mark.parametrize("timeout_s", [0.0, 1e-7, -1.0])
def test_a_deadline_that_has_passed_does_not_become_none(timeout_s: float) -> None:
    request = WorkRequest("r", 1, (1,), SamplingParams(0.0, 0, 1), timeout_s=timeout_s)
    assert request_from_pb(request_to_pb(request)).timeout_s == 1e-6


def test_a_reason_from_a_newer_worker_is_internal() -> None:
    message = worker_pb2.StepOutput()
    message.sequences.add(request_id="r").error.reason = "FROM_THE_FUTURE"
    (output,) = step_from_pb(message)
    assert output.failure == WorkFailure(Reason.INTERNAL, "")


def test_no_finish_reason_is_unspecified_both_ways() -> None:
    assert finish_to_pb(None) == inference_pb2.FINISH_REASON_UNSPECIFIED
    (output,) = step_from_pb(worker_pb2.StepOutput(sequences=[worker_pb2.SequenceOutput()]))
    assert output.finish_reason is None


def test_every_role_and_finish_reason_has_a_number_of_its_own() -> None:
    assert {role_to_pb(role) for role in Role} == set(admin_pb2.WorkerRole.values()) - {0}
    finishes = {finish_to_pb(reason) for reason in FinishReason}
    assert finishes == set(inference_pb2.FinishReason.values()) - {0}


def test_microseconds_are_rounded_not_cut() -> None:
    assert [to_us(s) for s in (0.0, 1.5e-6, 0.9999999, 3600.0)] == [0, 2, 1_000_000, 3_600_000_000]
