"""Machine limits, measured: memory bandwidth and the rate of bfloat16 products; and its facts."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.gpu.scale import Scale
from benchmarks.gpu.timing import measure

_REPEATS = 10
_STATE = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates in bytes and operations a second, and a description."""

    copy_rate: float  # bytes read plus bytes written
    read_rate: float
    layer_rate: float  # the four products of one layer of the model, one after the other
    square_rate: float
    facts: dict[str, str]

    @property
    def bandwidth(self) -> float:
        """The larger rate in bytes a second, which makes the roofline harder to reach."""
        return max(self.copy_rate, self.read_rate)

    @property
    def matmul_rate(self) -> float:
        """The larger rate in operations a second."""
        return max(self.layer_rate, self.square_rate)


def measure_machine(scale: Scale, device: torch.device) -> Machine:
    """Measure on random numbers: matrix units are faster on zeros."""
    copy_rate, read_rate = _stream_rates(scale.stream_bytes, device)
    square = scale.square
    square_rate = _product_rate(square, ((square, square),), device)
    layer_rate = _product_rate(scale.matmul_rows, scale.shape.products, device)
    # directly after the products, so that clocks are as under load
    return Machine(copy_rate, read_rate, layer_rate, square_rate, _facts(device))


def _stream_rates(num_bytes: int, device: torch.device) -> tuple[float, float]:
    source = torch.empty(num_bytes // 4, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)

    def rate(moved_bytes: int, function: Callable[[], object]) -> float:
        return moved_bytes / measure(function, device, _REPEATS).device_s

    return (
        rate(2 * source.nbytes, lambda: target.copy_(source)),
        rate(source.nbytes, source.sum),
    )


def _product_rate(rows: int, products: tuple[tuple[int, int], ...], device: torch.device) -> float:
    def random(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.bfloat16, device=device).normal_()

    operands = [(random(rows, inputs), random(outputs, inputs)) for inputs, outputs in products]

    def run() -> None:
        for x, weight in operands:
            torch.mm(x, weight.t())

    flops = sum(2 * rows * inputs * outputs for inputs, outputs in products)
    return flops / measure(run, device, _REPEATS).device_s


def _facts(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": str(properties.name),
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "multiprocessors": str(properties.multi_processor_count),
        "CUDA of torch": str(torch.version.cuda),
        **_state(f"GPU-{properties.uuid}"),
    }


def _state(uuid: str) -> dict[str, str]:
    """Return driver, clocks and power from the driver's own tool; empty if it reports nothing."""
    command = [
        "nvidia-smi",
        f"--id={uuid}",
        f"--query-gpu={','.join(_STATE)}",
        "--format=csv,noheader",
    ]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in found.stdout.strip().split(",")]
    return dict(zip(_STATE, values, strict=True))
