"""A hand-off with round numbers: 3 chunks, 2 of whose KV is sent while prefill runs; microseconds.

Prefill runs from 20,000 to 50,000 in three chunks. KV 3 is copied out by 53,000, arrives at 57,000,
and is inserted from 60,000 to 65,000. The first decode step begins at 70,000, the answer ends at
200,000.
"""

from pdserve.v1 import inference_pb2

CHUNKS = [
    inference_pb2.PrefillChunk(
        start_us=start, duration_us=10_000, num_tokens=tokens, is_remote=True
    )
    for start, tokens in ((20_000, 512), (30_000, 512), (40_000, 76))
]


def transfer(
    copy_out_start_us: int, insert_start_us: int, num_tokens: int
) -> inference_pb2.KVTransfer:
    return inference_pb2.KVTransfer(
        copy_out_start_us=copy_out_start_us,
        copy_out_us=2_000,
        wire_us=4_000,
        insert_start_us=insert_start_us,
        insert_us=5_000,
        num_tokens=num_tokens,
        num_bytes=num_tokens * 1024,
    )


def steps(num_steps: int, num_kept: int) -> inference_pb2.DecodeSteps:
    """Return the first and last half of the kept steps, 1,000 apart, the first at 70,000."""
    half = num_kept // 2
    numbers = [*range(half), *range(num_steps - (num_kept - half), num_steps)]
    return inference_pb2.DecodeSteps(
        num_steps=num_steps,
        start_us=[70_000 + 1_000 * number for number in numbers],
        duration_us=[900] * num_kept,
        num_sequences=[5] * num_kept,
        num_tokens=[6] * num_kept,
    )


def finished(num_steps: int = 100, num_kept: int = 100) -> inference_pb2.Finished:
    transfers = [transfer(30_000, 40_000, 512), transfer(40_000, 46_000, 512)]
    timings = inference_pb2.Timings(
        queue_us=20_000,
        pull_us=5_000,
        prefill_chunks=CHUNKS,
        first_token_us=55_000,
        handoff_us=20_000,
        total_us=200_000,
        transfers=[*transfers, transfer(51_000, 60_000, 76)],
        decode_steps=steps(num_steps, num_kept),
        clock_error_us=500,
    )
    return inference_pb2.Finished(
        timings=timings, prefill_worker="prefill-0", decode_worker="decode-0"
    )


def explained(name: str, arrival_us: int) -> inference_pb2.ExplainResponse:
    return inference_pb2.ExplainResponse(
        request_id=name, prompt_tokens=1100, arrival_us=arrival_us, finished=[finished()]
    )
