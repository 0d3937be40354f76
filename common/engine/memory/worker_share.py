"""Part of its machine that one worker may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """Share of host memory and of a GPU; the default is a worker that has its machine to itself."""

    memory_bytes: int | None = None  # of host memory; None: what is usable when it starts
    num_workers: int = 1  # that share the machine's memory, itself included
    gpu: float = 0.0  # of a GPU's memory; 0 and 1: all of it
