"""Descriptions of workers that run in a test's process, or in a child of it."""

from pathlib import Path
from typing import Literal

from common.config import EngineConfig, TransferConfig, WorkerSpec


def worker_spec(
    name: str,
    role: Literal["prefill", "decode"],
    model_dir: Path,
    config: EngineConfig,
    transfer: TransferConfig,
) -> WorkerSpec:
    """Describe a worker of one thread."""
    return WorkerSpec(
        name=name,
        role=role,
        model_dir=model_dir,
        model_name="tiny",
        namespace="test",
        num_threads=1,
        engine=config,
        transfer=transfer,
    )
