import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
import typer

from benchmarks import environment
from benchmarks.gpu.__main__ import Size, main
from benchmarks.gpu.breakdown import Kernels, by_kind
from benchmarks.gpu.comparison import OURS, THEIRS, Comparison
from benchmarks.gpu.engine_run import Run
from benchmarks.gpu.lower_bounds import decode_bytes, kv_bytes, prefill_flops, weight_bytes
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.model import random_model
from benchmarks.gpu.peer import Peer
from benchmarks.gpu.report import Report
from benchmarks.gpu.scale import FULL, TINY, Shape
from benchmarks.gpu.steps import Step
from benchmarks.gpu.time_budget import Budget
from benchmarks.gpu.timing import Times
from benchmarks.workload import Work

# QKV 8 x 16, output 8 x 8, gate and up 8 x 24, down 12 x 8: 128 + 64 + 192 + 96 = 480 a layer; head 8 x 10
SMALL = Shape(hidden=8, layers=3, heads=4, kv_heads=2, intermediate=12, vocab=10)
WORKS = [Work((1,) * 30, 10), Work((1,) * 50, 10)]


def silent(_: str) -> None:
    pass


def report() -> Report:
    machine = Machine(100.0, 90.0, 40.0, 50.0, {"device": "some GPU"})
    runs = {OURS: [Run(1.0), Run(3.0)], THEIRS: [Run(4.0), Run(6.0, is_whole=False)]}
    found = Report(machine, 2048, Comparison(WORKS, runs), ["a part"])
    found.decode = {"graphs": [Step(1, 3.0, Times(4.0, 5.0), [])], "no graphs": []}
    return found


def test_a_decode_step_reads_all_weights_once_and_the_keys_and_values_of_its_batch() -> None:
    assert weight_bytes(SMALL) == 2 * (3 * 480 + 80)
    assert kv_bytes(SMALL, 1) == 2 * 3 * 2 * 2 * 2  # K and V, layers, heads, channels, bytes
    assert decode_bytes(SMALL, batch_size=5, context=7) == 2 * 1520 + 35 * 48


def test_a_prefill_step_has_the_operations_of_its_products_and_of_the_pairs_that_see_each_other() -> (
    None
):
    pairs = 1 + 2 + 3 + 4
    assert prefill_flops(SMALL, 4) == 2 * 1440 * 4 + 2 * 80 + 4 * pairs * 3 * 4 * 2


def test_the_full_shape_has_the_sizes_of_an_8b_llama() -> None:
    assert weight_bytes(FULL.shape) == 15_009_316_864
    assert kv_bytes(FULL.shape, 1) == 128 * 1024
    assert decode_bytes(FULL.shape, 64, 2048) == 15_009_316_864 + 16 * 2**30


def test_the_limit_is_the_better_of_two_measured_rates_and_the_fraction_is_by_the_hosts_clock() -> (
    None
):
    found = report()
    assert (found.machine.bandwidth, found.machine.matmul_rate) == (100.0, 50.0)
    (step,) = found.decode["graphs"]
    assert (step.fraction, step.device_fraction) == (0.6, 0.75)


def test_rates_are_of_medians_and_the_ratio_is_ours_over_theirs() -> None:
    comparison = report().comparison
    assert comparison.output_rate(OURS) == 20 / 2
    assert comparison.total_rate(OURS) == 100 / 2
    assert comparison.ratio == 2.5
    assert (comparison.is_whole(OURS), comparison.is_whole(THEIRS)) == (True, False)
    comparison.runs[THEIRS].clear()
    assert comparison.ratio is None


def test_kernels_are_told_apart_by_their_names() -> None:
    names = [
        "void pytorch_flash::flash_fwd_splitkv_kernel<cutlass::bfloat16_t>(Params)",
        "nvjet_tst_128x64_64x10_1x2_h_bz_TNT",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>(Params)",
        "Memcpy HtoD (Pinned -> Device)",
        "void at::native::vectorized_elementwise_kernel<4, MulFunctor<float>>(int)",
    ]
    shares = by_kind([Kernels(name, 4, 1.0) for name in names], runs=2)
    assert [(share.kind, share.count, share.seconds) for share in shares] == [
        ("attention", 2, 0.5),
        ("products", 4, 1.0),
        ("copies", 2, 0.5),
        ("norms, rotary, gate, sampling", 2, 0.5),
    ]


def test_a_part_that_would_begin_too_late_is_left_out_and_named() -> None:
    told: list[str] = []
    budget = Budget(1000.0, told.append)
    assert budget.allows("a short part", 10.0)
    assert not budget.allows("a long part", 1000.0)
    assert (told, budget.left_out) == (["a short part"], ["a long part"])


def test_a_report_is_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    spec = ModuleSpec("benchmarks.gpu.__main__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["somewhere/gpu/__main__.py"])
    path = environment.write_result("gpu", report().to_json())
    text = path.read_text()
    assert '"command": "python -m benchmarks.gpu"' in text
    assert '"fraction": 0.6' in text
    assert '"left out": [\n      "a part"' in text
    picture = tmp_path / "gpu.png"
    report().plot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_full_run_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit) as ended:
        main(Size.FULL)
    assert ended.value.exit_code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "torch sees none" in line
    assert "--scale tiny" in line


def test_a_peer_whose_time_is_up_is_cut_off_and_can_run_again() -> None:
    model, _ = random_model(TINY.shape, torch.device("cpu"))
    warm_up, works = TINY.requests.warm_up(), TINY.requests.works()
    peer = Peer(model, TINY.requests.peer_blocks)
    with pytest.raises(RuntimeError, match="did not end in time"):
        peer.run(warm_up, works, Budget(0.0, silent))
    assert peer.run(warm_up, works, Budget(100.0, silent)).is_whole
    assert peer.attention


def test_a_tiny_run_goes_through_every_part_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    main(Size.TINY)
    output = capsys.readouterr().out
    for part in (
        "memory, read",
        "decode at context 64",
        "prefill over",
        "pdserve over transformers",
    ):
        assert part in output
    assert "left out" not in output
    assert "failed" not in output
    assert "no results file was written" in output
    assert not list(tmp_path.iterdir())
