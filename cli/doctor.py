"""The command `pdserve doctor`: checks this machine for what pdserve needs."""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from cli.findings import Finding, findings_grid
from cli.kernel_tests import check_kernels
from cli.output import AsJson, AsPlain, check_forms, print_json, print_plain, stdout_console
from cli.shadowing import HOME, OURS, foreign_packages, remedy
from common.cache_dir import default_cache_dir
from common.cgroup import HERE as CGROUPS
from common.config import ServeConfig
from common.machine import Cores, Memory, read_cores, read_memory

_GIB = 2**30
PYTHON = sys.version_info[:3]
PYTHONS = ((3, 11), (3, 14))  # the oldest and the newest supported version, as in pyproject.toml
_LIBRARIES = ("torch", "transformers", "ray", "grpcio", "protobuf", "numba")
_SHM = Path("/dev/shm")  # noqa: S108 - its size matters, nothing is written there


def command(as_plain: AsPlain = False, as_json: AsJson = False) -> None:
    """Check this machine."""
    check_forms(as_json=as_json, as_plain=as_plain)
    findings = [finding for check in _CHECKS for finding in check()]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    elif as_plain:
        print_plain(findings_grid(findings))
    else:
        _print(findings)
    raise typer.Exit(1 if any(finding.problem for finding in findings) else 0)


def _print(findings: list[Finding]) -> None:
    console = stdout_console()
    for finding in findings:
        mark = "[red]✗[/red]" if finding.problem else "[green]✓[/green]"
        line = f"{mark} {escape(finding.name)}: {escape(finding.value)}"
        console.print(line, highlight=False, soft_wrap=True)
        for note, color in ((finding.problem, "yellow"), (finding.remark, "dim")):
            if note:
                console.print(f"    [{color}]{escape(note)}[/{color}]", soft_wrap=True)


def _check_packages() -> list[Finding]:
    foreign = foreign_packages()
    found = [Finding(f"package {n}", str(origin), remedy(n)) for n, origin in foreign.items()]
    return found or [Finding("packages", f"all {len(OURS)} are pdserve's own, in {HOME}")]


def _check_python() -> list[Finding]:
    low, high = (f"{major}.{minor}" for major, minor in PYTHONS)
    is_known = PYTHONS[0] <= PYTHON[:2] <= PYTHONS[1]
    problem = None if is_known else f"Python {low} to {high} is needed"
    own = ".".join(map(str, PYTHON))
    return [Finding("python", f"{own} (of {low} to {high})" if is_known else own, problem)]


def _check_libraries() -> list[Finding]:
    versions, missing = [], []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    lack = f"not installed: {', '.join(missing)}; install pdserve again" if missing else None
    return [Finding("libraries", ", ".join(versions), lack)]


def _check_machine() -> list[Finding]:
    cores, memory = read_cores(CGROUPS), read_memory(CGROUPS)
    free = memory.available_bytes
    shm = shutil.disk_usage(_SHM).free if _SHM.exists() else 0
    config = ServeConfig()
    store = 2 * config.transfer.max_inflight_mib * 2**20 * config.decode
    return [
        Finding(
            "cores",
            _describe_cores(cores),
            remark="prefill and decode share a core" if cores.count == 1 else None,
        ),
        Finding("memory", _describe_memory(memory), _need(free, 4 * _GIB, "4 GiB")),
        Finding(
            "shared memory",
            f"{shm / _GIB:.1f} GiB free",
            _need(shm, store, f"{store / _GIB:.1f} GiB, or Ray falls back to disk"),
        ),
    ]


def _describe_cores(cores: Cores) -> str:
    if cores.quota is None or not cores.is_shared:
        return str(cores.count)
    return f"{cores.count} of {len(cores.mask)} (limited to {cores.quota.cpus:g} by {cores.quota.file})"


def _describe_memory(memory: Memory) -> str:
    available, total = memory.available_bytes / _GIB, memory.total_bytes / _GIB
    binding = f" of {total:.1f} (limited by {memory.limited_by})" if memory.limited_by else ""
    return f"{available:.1f} GiB available{binding}"


def _check_gpu() -> list[Finding]:
    import torch  # torch takes a second to import; show the other checks first

    if not torch.cuda.is_available():
        return [Finding("gpu", "none; attention backends: cpu, reference")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kinds = "8-bit keys and values: fp8 (engine.kv_cache_dtype)"
    return [Finding("gpu", ", ".join(names), remark=kinds)]


def _check_ports() -> list[Finding]:
    config = ServeConfig()
    found = []
    for key, port in (("grpc_port", config.grpc_port), ("http_port", config.http_port)):
        with socket.socket() as probe:
            is_taken = probe.connect_ex(("127.0.0.1", port)) == 0
        value = "in use (perhaps by pdserve itself)" if is_taken else "free"
        found.append(Finding(f"{key} {port}", value))
    return found


def _check_cache() -> list[Finding]:
    cache = default_cache_dir()
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    problem = None if os.access(parent, os.W_OK) else f"{parent} is not writable"
    return [Finding("model cache", str(cache), problem)]


def _need(have: int, want: int, text: str) -> str | None:
    return None if have >= want else f"at least {text}"


_CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _check_python,
    _check_libraries,
    _check_packages,
    _check_machine,
    _check_ports,
    _check_cache,
    _check_gpu,
    check_kernels,
)
