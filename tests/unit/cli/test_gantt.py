import io

from rich.console import Console

from cli.block_ledgers import ledger_dict, ledger_table
from cli.gantt import gantt_table
from cli.grid import Grid
from pdserve.v1 import inference_pb2, ledger_pb2
from tests.unit.cli.timed import finished


def shown(table: Grid, width: int) -> list[str]:
    out = io.StringIO()
    Console(width=width, file=out).print(table)
    return out.getvalue().splitlines()


def row(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if line.startswith(name)]
    return line


def test_every_phase_has_a_bar_where_it_was() -> None:
    # the axis is 70.9 ms and a 16th of it, 75.3 ms: 64 characters of 1.18 ms
    lines = shown(gantt_table(finished(), 140), 140)
    names = ("chunk 1", "chunk 2", "chunk 3", "KV 1", "KV 2", "KV 3", "join", "first step")
    found = {name: row(lines, name) for name in names}
    bars = {name: (line.index("█"), line.rindex("█")) for name, line in found.items()}
    assert bars["chunk 1"][1] <= bars["chunk 2"][0] <= bars["chunk 2"][1] <= bars["chunk 3"][0] + 1
    assert bars["KV 1"][0] < bars["chunk 3"][0], "sent while prefill ran"
    assert bars["KV 3"][1] - 1 <= bars["join"][0]
    assert bars["join"][1] <= bars["first step"][0] + 1
    assert "512 tokens on prefill-0" in row(lines, "chunk 1")
    assert "0.1 MiB: 2.0+4.0+3.0+5.0" in row(lines, "KV 3")
    assert "5 sequences, 6 tokens" in row(lines, "first step")
    assert "100 steps" in row(lines, "decode")
    assert any("known to within 0.5 ms" in line for line in lines)


def test_it_fits_80_columns_and_shows_what_took_no_time() -> None:
    done = finished()
    for transfer in done.timings.transfers:
        transfer.copy_out_us = 1
    lines = shown(gantt_table(done, 80), 80)
    assert max(map(len, lines)) <= 80
    assert row(lines, "KV 1").count("█") >= 3


def test_of_very_many_chunks_the_first_and_the_last_are_shown() -> None:
    done = finished()
    for number in range(100):
        done.timings.prefill_chunks.add(start_us=50_000, duration_us=1, num_tokens=number)
    names = [line.split("  ")[0] for line in shown(gantt_table(done, 140), 140)]
    chunks = [name for name in names if name.startswith("chunk")]
    assert chunks == [f"chunk {n}" for n in (1, 2, 3, 4, 5, 6, 98, 99, 100, 101, 102, 103)]


def test_a_request_of_which_little_is_known_is_shown_too() -> None:
    local = inference_pb2.Finished(decode_worker="decode-0")
    assert "decode-0" in row(shown(gantt_table(local, 80), 80), "queue")
    one_token = finished(num_steps=0, num_kept=0)
    assert not [line for line in shown(gantt_table(one_token, 80), 80) if "step" in line[:12]]


LEDGER = ledger_pb2.WorkerBlocks(
    worker="decode-0",
    ledger=ledger_pb2.BlockLedger(
        blocks_total=100,
        blocks_free=90,
        blocks_cached=20,
        block_size=16,
        num_holders=3,
        holders=[
            ledger_pb2.BlockHolder(
                request_id="busy",
                state=ledger_pb2.HOLDER_STATE_DECODING,
                num_blocks=10,
                num_shared_blocks=4,
                num_tokens=160,
                num_computed_tokens=159,
                age_us=2_500_000,
            ),
            ledger_pb2.BlockHolder(
                request_id="out", state=ledger_pb2.HOLDER_STATE_SWAPPED, host_bytes=3 << 19
            ),
        ],
    ),
)
MUTE = ledger_pb2.WorkerBlocks(worker="decode-1", problem="no answer in 2 s")


def test_the_ledger_names_each_holder_its_reason_and_the_pool() -> None:
    lines = [line.split() for line in shown(ledger_table([LEDGER, MUTE], "who"), 140)]
    assert ["decode-0", "busy", "decoding", "10", "4", "159", "/", "160", "2.5"] in lines
    assert ["decode-0", "out", "swapped", "0", "0", "0", "/", "0", "1.5", "0.0"] in lines
    assert ["decode-0", "1", "more"] in lines
    pool = "decode-0 100 in all, 90 free, 20 cached 10"
    assert pool.split() in lines
    assert ["decode-1", "no", "answer", "in", "2", "s"] in lines


def test_blocks_that_nobody_accounts_for_are_said_so() -> None:
    leaky = ledger_pb2.WorkerBlocks(worker="w", ledger=ledger_pb2.BlockLedger(blocks_unaccounted=2))
    assert any("2 leaked" in line for line in shown(ledger_table([leaky], "who"), 140))


def test_the_json_form_of_a_ledger() -> None:
    found = ledger_dict(LEDGER)
    assert found["blocks"] == {
        "total": 100,
        "free": 90,
        "cached": 20,
        "unaccounted": 0,
        "size_tokens": 16,
    }
    holders = found["holders"]
    assert isinstance(holders, list)
    assert [holder["state"] for holder in holders] == ["decoding", "swapped"]
    assert ledger_dict(MUTE) == {"worker": "decode-1", "problem": "no answer in 2 s"}


def test_a_prompt_that_waited_for_kv_in_vain_names_no_prefill_worker() -> None:
    done = finished()
    done.prefill_worker = ""
    assert "for KV that never came" in "\n".join(shown(gantt_table(done, 140), 140))
