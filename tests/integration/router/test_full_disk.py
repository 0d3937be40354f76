"""A router whose log's disk is full: requests are served, the loss is counted, and told once."""

from pathlib import Path

from tests.integration.support.router_stack import collect, text_of
from tests.integration.support.scraped_router import scrape, used, values
from tests.unit.common.telemetry.disk_log import logging_to_a_disk
from tests.unit.router.tiny_tokenizer import write_folder


async def test_a_full_disk_for_logs_stops_no_request(tmp_path: Path) -> None:
    with logging_to_a_disk() as disk:
        async with used(write_folder(tmp_path)) as stack:
            disk.is_full = True
            assert text_of(await collect(stack.client, "on a full disk")) == "on a full disk"
            lost = values(await scrape(stack))["pdserve_log_lines_lost_total",]
            disk.is_full = False
            await collect(stack.client, "again")
            told = values(await scrape(stack))["pdserve_log_lines_lost_total",]
        lines = disk.lines()
    assert (lost, told) == (1, 1)  # the line of the one request
    warnings = [line for line in lines if line["event"] == "log_lines_lost"]
    assert [line["num_lines"] for line in warnings] == [1]
    assert [line["level"] for line in warnings] == ["warning"]
