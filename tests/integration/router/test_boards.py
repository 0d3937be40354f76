"""Boards and alerts of deploy/observability against a live scrape: each name is really there."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.support.scraped_router import ALL_METRICS, scrape, used
from tests.unit.deploy import promql
from tests.unit.router.tiny_tokenizer import write_folder

Samples = dict[str, dict[str, set[str]]]  # by name: the values of each label


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


def samples_of(body: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def problems(expr: str, samples: Samples) -> list[str]:
    """Return what an expression names that no router has."""
    found = []
    known = set(promql.ADDED)
    for selector in promql.selectors(expr):
        labels = samples.get(selector.sample)
        if labels is None:
            found.append(f"no metric {selector.sample}")
            continue
        known |= set(labels)
        for label, operator, value in selector.matchers:
            if label in promql.ADDED or value.startswith("$"):
                continue
            missing = set(value.split("|")) - labels.get(label, set())
            if operator in ("=", "=~", "!~", "!=") and missing:
                found.append(f"no {selector.sample} with {label}={missing}")
    if not promql.selectors(expr):  # of recorded rules alone
        return found
    return found + [f"no label {x}" for x in promql.grouped_labels(expr) - known]


async def test_every_metric_label_and_value_of_boards_and_alerts_is_in_a_scrape(
    model_dir: Path,
) -> None:
    async with used(model_dir, ALL_METRICS) as stack:
        samples = samples_of(await scrape(stack))
    wrong = {
        name: found
        for name, exprs in promql.expressions().items()
        if (found := [problem for expr in exprs for problem in problems(expr, samples)])
    }
    assert wrong == {}
    assert len(promql.expressions()) > 50


async def test_every_documented_counter_and_gauge_of_workers_is_on_a_board(
    model_dir: Path,
) -> None:
    async with used(model_dir) as stack:
        samples = samples_of(await scrape(stack))
    shown = {
        s.sample
        for exprs in promql.expressions().values()
        for e in exprs
        for s in promql.selectors(e)
    }
    workers = {n for n in samples if n.startswith("pdserve_worker_") and not n.endswith("_created")}
    assert workers - shown == set()


def test_recorded_metrics_that_alerts_read_are_recorded() -> None:
    recorded = {rule["record"] for rule in promql.rules() if "record" in rule}
    read = {
        name
        for exprs in promql.expressions().values()
        for expr in exprs
        for name in re.findall(r"\bpdserve:[\w:]+", expr)
    }
    assert read <= recorded
    assert read


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("sum (pdserve_nothing)", "no metric pdserve_nothing"),
        ('pdserve_a{state="gone"}', "no pdserve_a with state={'gone'}"),
        ("sum by (tenant) (pdserve_a)", "no label tenant"),
        ('pdserve_a{nothing="x"}', "no pdserve_a with nothing={'x'}"),
        ('sum by (job, state) (pdserve_a{state=~"used|free", job="x"})', None),
    ],
)
def test_what_does_not_exist_would_be_found(expr: str, problem: str | None) -> None:
    samples: Samples = {"pdserve_a": {"state": {"used", "free"}}}
    assert problems(expr, samples) == ([problem] if problem else [])
