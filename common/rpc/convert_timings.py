"""Conversion of a request's time spans: seconds here, microseconds in messages."""

from common.timings import DecodeStepTiming, PrefillChunkTiming, TransferTiming, WorkTimings
from pdserve.v1 import inference_pb2


def to_us(seconds: float) -> int:
    """Convert seconds to whole microseconds."""
    return round(seconds * 1e6)


def timings_to_pb(timings: WorkTimings) -> inference_pb2.Timings:
    """Convert a worker's spans to the public message; the router adds its own."""
    return inference_pb2.Timings(
        queue_us=to_us(timings.queue_s),
        prefill_chunks=[
            inference_pb2.PrefillChunk(
                start_us=to_us(c.start_s),
                duration_us=to_us(c.duration_s),
                num_tokens=c.num_tokens,
                is_remote=c.is_remote,
            )
            for c in timings.prefill_chunks
        ],
        handoff_us=to_us(timings.handoff_s),
        kv_bytes=timings.kv_bytes,
        num_preemptions=timings.num_preemptions,
        num_cached_tokens=timings.num_cached_tokens,
        # 0 stands for "prefilled locally", which an immediate pull must not become
        pull_us=max(to_us(timings.pull_s), 1) if timings.pull_s is not None else 0,
        transfers=map(_transfer_to_pb, timings.transfers),
        decode_steps=_steps_to_pb(timings),
        clock_error_us=to_us(timings.clock_error_s),
    )


def timings_from_pb(message: inference_pb2.Timings) -> WorkTimings:
    """Convert the public message to a worker's spans."""
    steps = message.decode_steps
    columns = (steps.start_us, steps.duration_us, steps.num_sequences, steps.num_tokens)
    return WorkTimings(
        queue_s=message.queue_us / 1e6,
        prefill_chunks=tuple(
            PrefillChunkTiming(c.start_us / 1e6, c.duration_us / 1e6, c.num_tokens, c.is_remote)
            for c in message.prefill_chunks
        ),
        handoff_s=message.handoff_us / 1e6,
        kv_bytes=message.kv_bytes,
        num_preemptions=message.num_preemptions,
        num_cached_tokens=message.num_cached_tokens,
        pull_s=message.pull_us / 1e6 if message.pull_us else None,
        transfers=tuple(map(_transfer_from_pb, message.transfers)),
        decode_steps=tuple(
            DecodeStepTiming(start_us / 1e6, duration_us / 1e6, num_sequences, num_tokens)
            for start_us, duration_us, num_sequences, num_tokens in zip(*columns, strict=True)
        ),
        num_decode_steps=steps.num_steps,
        clock_error_s=message.clock_error_us / 1e6,
    )


def _transfer_to_pb(transfer: TransferTiming) -> inference_pb2.KVTransfer:
    return inference_pb2.KVTransfer(
        copy_out_start_us=to_us(transfer.copy_out_start_s),
        copy_out_us=to_us(transfer.copy_out_s),
        wire_us=to_us(transfer.wire_s),
        insert_start_us=to_us(transfer.insert_start_s),
        insert_us=to_us(transfer.insert_s),
        num_tokens=transfer.num_tokens,
        num_bytes=transfer.num_bytes,
    )


def _transfer_from_pb(message: inference_pb2.KVTransfer) -> TransferTiming:
    return TransferTiming(
        copy_out_start_s=message.copy_out_start_us / 1e6,
        copy_out_s=message.copy_out_us / 1e6,
        wire_s=message.wire_us / 1e6,
        insert_start_s=message.insert_start_us / 1e6,
        insert_s=message.insert_us / 1e6,
        num_tokens=message.num_tokens,
        num_bytes=message.num_bytes,
    )


def _steps_to_pb(timings: WorkTimings) -> inference_pb2.DecodeSteps:
    steps = timings.decode_steps
    return inference_pb2.DecodeSteps(
        num_steps=timings.num_decode_steps,
        start_us=[to_us(step.start_s) for step in steps],
        duration_us=[to_us(step.duration_s) for step in steps],
        num_sequences=[step.num_sequences for step in steps],
        num_tokens=[step.num_tokens for step in steps],
    )
