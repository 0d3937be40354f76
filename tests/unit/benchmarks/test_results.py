import json
from pathlib import Path

import pytest

from benchmarks import environment
from benchmarks.goodput.plot import curve
from benchmarks.goodput.plot import plot as plot_goodput
from benchmarks.goodput.result import GoodputResult, medians, ratios, read_result
from benchmarks.goodput.search import Search
from benchmarks.handoff.plot import Gaps, largest_gaps
from benchmarks.handoff.plot import plot as plot_handoff
from benchmarks.routing import CASES, Mix
from benchmarks.slo_attainment import Attainment, Slo

PNG = b"\x89PNG"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    return tmp_path


def searches() -> list[Search]:
    met = {"ours": (90, 80, 70), "theirs": (40, 50, 60)}
    return [
        Search("a case", name, number, shares[number] / 10, (Attainment(2.0, share, 10, 5, 5),))
        for name, shares in met.items()
        for number, share in enumerate(shares)
    ]


def test_medians_are_over_rounds_and_ratios_to_the_best_of_those_named() -> None:
    goodputs = medians(searches())
    assert goodputs == {"a case": {"ours": 8.0, "theirs": 5.0}}
    assert ratios(goodputs, ["theirs"]) == {"a case": {"ours": 1.6, "theirs": 1.0}}
    assert ratios(goodputs, ["theirs", "ours"])["a case"] == {"ours": 1.0, "theirs": 0.625}
    assert ratios({"a case": {"ours": 8.0, "theirs": 0.0}}, ["theirs"]) == {}


def test_a_goodput_result_is_read_back_and_drawn_from_its_file(results: Path) -> None:
    found = medians(searches())
    result = GoodputResult("load", 1, None, 20.0, Slo(), found, ratios(found, ["ours"]), searches())
    path = result.write("goodput")
    assert read_result(path) == result
    ((rate, share),) = curve(result, "a case", "theirs")
    assert rate == 2.0
    assert share == pytest.approx(100 * 50 / 70)
    assert plot_goodput(path).read_bytes().startswith(PNG)


def test_of_many_gaps_the_largest_of_each_50_ms_are_drawn() -> None:
    gaps = [(0.01, 5.0), (0.02, 300.004), (0.049, 7.0), (0.051, 8.0), (9.0, 1.0)]
    assert largest_gaps(gaps) == Gaps([0.02, 0.051, 9.0], [300.0, 8.0, 1.0])


def test_the_picture_of_the_handoff_is_drawn_from_the_file_of_its_table(results: Path) -> None:
    flood = {"pdserve 1P1D": {"at_s": [0.1, 0.2], "gap_ms": [20.0, 30.5]}}
    path = environment.write_result("handoff", {"seed": 1, "flood": flood})
    assert '"at_s": [0.1, 0.2]' in path.read_text()  # a list of numbers takes one line
    assert json.loads(path.read_text())["figures"]["flood"] == flood
    assert plot_handoff(path).read_bytes().startswith(PNG)


def test_half_of_a_mix_begins_with_one_of_the_shared_prefixes() -> None:
    shapes = Mix((32, 64), (16, 16), num_prefixes=2, prefix_tokens=512).shapes(400, seed=5)
    shared = [shape for shape in shapes if len(shape.segments) == 2]
    assert {shape.segments[0] for shape in shared} == {("shared 0", 512), ("shared 1", 512)}
    assert 150 < len(shared) < 250
    assert all(case.shapes(9, 5) == case.shapes(30, 5)[:9] for case in CASES)
