"""A live scrape against the metrics' page in the docs, and against the checks of its formats."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

import pdserve
from common.router_config import RouterConfig
from pdserve.errors import InvalidRequestError
from tests.integration.support.router_stack import collect
from tests.integration.support.scraped_router import ALL_METRICS, scrape, used, values
from tests.patience import WITHIN_S
from tests.unit.repository.sources import ROOT
from tests.unit.router.tiny_tokenizer import write_folder

PAGE = (ROOT / "docs" / "operate" / "metrics.md").read_text("utf-8")
ROW = re.compile(r"^\| `([\w:]+)` \| (\w+) \|(.*?)\| .+ \|$", re.MULTILINE)
PROMTOOL = shutil.which("promtool")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"))


async def test_the_page_has_every_metric_of_a_scrape_and_no_other(model_dir: Path) -> None:
    async with used(model_dir, ALL_METRICS) as stack:
        body = await scrape(stack)
    found = {}
    for family in text_string_to_metric_families(body):
        if family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(PAGE)
    }
    assert documented == found


async def test_refusals_and_ends_are_counted_by_reason(model_dir: Path) -> None:
    async with used(model_dir) as stack:
        found = values(await scrape(stack))
    expected = {
        ("pdserve_requests_refused_total", "EMPTY_PROMPT"): 1,
        ("pdserve_requests_refused_total", "QUEUE_FULL"): 0,
        ("pdserve_requests_finished_total", "stop"): 1,
        ("pdserve_requests_finished_total", "length"): 0,
        ("pdserve_requests_finished_total", "WORKER_LOST"): 0,
        ("pdserve_request_generation_tokens_sum",): 5,
        ("pdserve_request_prompt_tokens_sum",): 5,
    }
    assert {key: found.get(key) for key in expected} == expected


async def test_each_request_leaves_one_line_a_refused_one_too(model_dir: Path) -> None:
    async with used(model_dir) as stack:
        with capture_logs() as lines:
            await collect(stack.client, "text", request_id="good")
            with pytest.raises(InvalidRequestError):
                await collect(stack.client, "text", request_id="bad", top_p=7)
    ends = [line for line in lines if line["event"] == "request_ended"]
    assert [(line["request_id"], line["outcome"], line["reason"]) for line in ends] == [
        ("good", "completed", "stop"),
        ("bad", "rejected", "INVALID_FIELD"),
    ]


async def test_a_scrape_says_what_runs(model_dir: Path) -> None:
    async with used(model_dir) as stack:
        families = {f.name: f for f in text_string_to_metric_families(await scrape(stack))}
    (build,), (model,) = (families[f"pdserve_{of}_info"].samples for of in ("build", "model"))
    assert (build.labels["version"], build.value) == (pdserve.__version__, 1)
    assert (model.labels["model"], model.value) == ("tiny", 1)
    (memory,) = families["process_resident_memory_bytes"].samples
    assert memory.value > 0


async def test_a_worker_that_died_shows_no_load(model_dir: Path) -> None:
    async with used(model_dir) as stack:
        before = values(await scrape(stack))
        await stack.lose(0)
        await stack.until(lambda status: any(not w.HasField("load") for w in status.workers))
        after = values(await scrape(stack))

    def of_decode(found: dict[tuple[str, ...], float]) -> set[str]:
        return {key[0] for key in found if "decode-0" in key}

    assert before["pdserve_worker_preemptions_total", "decode", "decode-0"] == 3
    assert len(of_decode(before)) > 10
    assert of_decode(after) == {"pdserve_worker_up", "pdserve_worker_restarts_total"}


async def test_the_scrape_is_valid_openmetrics(model_dir: Path) -> None:
    async with used(model_dir) as stack:
        body = await scrape(stack, "application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")
    families = parse_openmetrics(body)  # type: ignore[no-untyped-call]  # it has no annotations
    assert "pdserve_requests" in {family.name for family in families}


async def test_nothing_is_there_that_no_setting_asked_for(model_dir: Path) -> None:
    async with used(model_dir) as stack:
        found = {name for name, *_ in values(await scrape(stack))}
    optional = ("vllm:", "pdserve_slo_", "pdserve_tenant_")
    assert [name for name in found if name.startswith(optional)] == []


async def test_goodput_and_tenants_are_counted(model_dir: Path) -> None:
    async with used(model_dir, ALL_METRICS) as stack:
        found = values(await scrape(stack))
    expected = {
        ("pdserve_slo_requests_total", "met"): 1,
        ("pdserve_slo_requests_total", "missed_ttft"): 0,
        ("pdserve_slo_target_seconds", "ttft"): 60,
        ("pdserve_tenant_requests_total", "anonymous", "completed"): 1,
        ("pdserve_tenant_requests_total", "anonymous", "rejected"): 1,
        ("pdserve_tenant_generation_tokens_total", "anonymous"): 5,
    }
    assert {key: found.get(key) for key in expected} == expected


async def test_the_names_of_vllm_have_our_values(model_dir: Path) -> None:
    async with used(model_dir, ALL_METRICS) as stack:
        found = values(await scrape(stack))
    whole = ("0", "tiny")
    expected = {
        ("vllm:time_to_first_token_seconds_count", *whole): 1,
        ("vllm:inter_token_latency_seconds_count", *whole): 4,
        ("vllm:prompt_tokens_total", *whole): 5,
        ("vllm:request_success_total", "0", "stop", "tiny"): 1,
        ("vllm:request_success_total", "0", "error", "tiny"): 0,
        ("vllm:num_requests_running", *whole): 0,
        ("vllm:num_preemptions_total", "decode-0", "tiny"): 3,
        ("vllm:kv_cache_usage_perc", "decode-0", "tiny"): 0,
        ("vllm:cache_config_info", "16", "16", "decode-0", "tiny"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    ours, theirs = (
        {
            key[1:]: value
            for key, value in found.items()
            if key[0] == f"{prefix}e2e_request_latency_seconds_bucket"
        }
        for prefix in ("pdserve_", "vllm:")
    )
    assert sorted(ours.values()) == sorted(theirs.values()) != []


async def promtool_on(model_dir: Path, config: RouterConfig | None) -> tuple[int, list[str]]:
    """Return the exit code and the lines of `promtool check metrics`."""
    async with used(model_dir, config) as stack:
        body = await scrape(stack)
    done = await asyncio.to_thread(
        subprocess.run,
        [str(PROMTOOL), "check", "metrics"],
        input=body,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on PATH (Debian: prometheus)"
)


@needs_promtool
async def test_promtool_has_nothing_to_say(model_dir: Path) -> None:
    config = ALL_METRICS.model_copy(update={"metrics_compat": "off"})
    assert await promtool_on(model_dir, config) == (0, [])


@needs_promtool
async def test_promtool_minds_only_the_colon_of_vllm_s_names(model_dir: Path) -> None:
    _, lines = await promtool_on(model_dir, ALL_METRICS)
    assert lines
    assert [x for x in lines if not (x.startswith("vllm:") and "should not contain ':'" in x)] == []
