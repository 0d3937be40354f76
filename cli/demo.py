"""The command `pdserve demo`: one prefill and one decode worker answer four prompts at once."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from cli.demo_prompts import PROMPTS, DemoPrompt
from cli.model import progress_bars
from cli.requests import Answer, as_chat, ask
from cli.start_lines import start_lines
from cli.tour import describe, go_on_until_enter
from cli.waterfall import waterfall_table
from common.cache_dir import default_cache_dir
from common.config import ServeConfig
from common.engine.weights.catalog import DEFAULT_ALIAS
from common.engine.weights.resolve import ModelSource, resolve_model
from common.router_config import RouterConfig
from common.telemetry.logs import configure_logs
from deploy.quick_ray import put_off_rarely_used
from deploy.template import running_template
from pdserve.client import AsyncClient
from pdserve.errors import InternalError
from pdserve.v1 import admin_pb2, inference_pb2

_SETTLE_S = 5.0  # blocks are freed within a step; blocks still held after this are a leak
_TAIL_CHARS = 420


@dataclass(slots=True)
class _Lane:
    """One request while it streams."""

    prompt: DemoPrompt
    text: str = ""
    answer: Answer | None = None
    token_times_s: list[float] = field(default_factory=list)

    def on_text(self, text: str, num_tokens: int) -> None:
        self.text += text
        self.token_times_s.extend([time.monotonic()] * num_tokens)

    def panel(self) -> Panel:
        done = self.answer is not None
        title = f"{self.prompt.title} · {len(self.token_times_s)} tokens{' · done' if done else ''}"
        tail = self.text if len(self.text) <= _TAIL_CHARS else f"… {self.text[-_TAIL_CHARS:]}"
        return Panel(
            Text(tail or "…", style="" if done else "bold"),
            title=title,
            title_align="left",
            border_style="green" if done else "yellow",
        )


def command() -> None:
    """Show the whole system at work on this machine: prefill, hand-off, decode, live."""
    configure_logs("warning", process="demo")
    with progress_bars() as progress:
        source = resolve_model(DEFAULT_ALIAS, default_cache_dir(), progress)
    # use the prefill worker for every prompt: the demo shows the hand-off
    router = RouterConfig(policy="least_loaded")
    config = ServeConfig(prefill=1, decode=1, grpc_port=0, http_port=0, router=router)
    with running_template(config, source.path):
        asyncio.run(_run(config, source))


async def _run(config: ServeConfig, source: ModelSource) -> None:
    put_off_rarely_used()
    from deploy.serve import running  # ray takes a second to import, and --help does not need it

    console = Console()
    with start_lines() as lines:
        started_s = time.monotonic()
        context = running(config, source.name, source.path, lines)
        endpoints = await context.__aenter__()
    try:
        took_s = time.monotonic() - started_s
        console.print(
            f"[bold]{source.name}[/bold]: router on {endpoints.grpc_address}, 1 prefill and 1 decode "
            f"worker, ready in {took_s:.1f} s\n"
        )
        console.print(describe(endpoints.live_page), highlight=False)
        async with AsyncClient(endpoints.grpc_address) as client:
            await _show(console, client)
            await go_on_until_enter(console, lambda: _ask_all(client))
    finally:
        with console.status("stopping"):
            await context.__aexit__(None, None, None)


async def _show(console: Console, client: AsyncClient) -> None:
    lanes = [_Lane(prompt) for prompt in PROMPTS]
    started_s = time.monotonic()
    with Live(console=console, get_renderable=lambda: _view(lanes), refresh_per_second=8):
        await _ask_all(client, lanes)
    took_s = time.monotonic() - started_s
    rows = [(lane.prompt.title, _finished(lane)) for lane in lanes]
    console.print("", waterfall_table(rows, console.width))
    console.print(_summary(lanes, took_s))
    await _check_blocks(console, client)


async def _ask_all(client: AsyncClient, lanes: Sequence[_Lane] = ()) -> None:
    lanes = lanes or [_Lane(prompt) for prompt in PROMPTS]
    await asyncio.gather(*(_ask(client, lane) for lane in lanes))


async def _ask(client: AsyncClient, lane: _Lane) -> None:
    sampling = inference_pb2.SamplingParams(max_tokens=lane.prompt.max_tokens)
    lane.answer = await ask(client, as_chat(lane.prompt.text), sampling, lane.on_text)


def _view(lanes: list[_Lane]) -> Group:
    return Group(*(lane.panel() for lane in lanes))


def _finished(lane: _Lane) -> inference_pb2.Finished:
    if lane.answer is None:
        raise InternalError(f"'{lane.prompt.title}' ended without a summary")
    return lane.answer.continuation.finished


def _summary(lanes: list[_Lane], took_s: float) -> str:
    num_tokens = sum(len(lane.token_times_s) for lane in lanes)
    gaps = [
        (later - earlier) * 1000
        for lane in lanes
        for earlier, later in zip(lane.token_times_s, lane.token_times_s[1:], strict=False)
    ]
    first = [_finished(lane).timings.first_token_us / 1000 for lane in lanes]
    return (
        f"\n[bold]{num_tokens / took_s:.0f} tokens/s[/bold] over {took_s:.1f} s   "
        f"TTFT median {statistics.median(first):.0f} ms, longest {max(first):.0f} ms   "
        f"ITL median {statistics.median(gaps):.0f} ms, p99 {_p99(gaps):.0f} ms"
    )


def _p99(values: list[float]) -> float:
    return sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]


async def _check_blocks(console: Console, client: AsyncClient) -> None:
    """Check that no blocks are held after every request has ended."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        workers = (await client.status()).workers
        held = {w.name: w.load.blocks_total - w.load.blocks_free for w in workers}
        if not any(held.values()):
            break
        if time.monotonic() > deadline:
            raise InternalError(f"KV blocks still held after the demo: {held}")
        await asyncio.sleep(0.1)
    decode = next(w for w in workers if w.role == admin_pb2.WORKER_ROLE_DECODE).load
    console.print(
        f"KV shipped {decode.kv_bytes / 2**20:.1f} MiB; prompt tokens run on decode "
        f"{decode.prefill_tokens}; blocks still held {held}",
        highlight=False,
    )
