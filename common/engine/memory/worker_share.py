"""Part of its machine that one worker may take."""

from dataclasses import dataclass

from common.machine import Memory


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """Share of host memory and of a GPU; the default is a worker that has its machine to itself."""

    memory_bytes: int | None = None  # of host memory; None: what is usable when it starts
    num_workers: int = 1  # that share the machine's memory, itself included
    gpu: float = 0.0  # of a GPU's memory; 0 and 1: all of it

    def most_bytes(self, memory: Memory) -> int:
        """Return the most host memory that the worker may take.

        The machine's size counts too: a worker that starts again beside others gets as much as before.
        """
        given = memory.usable_bytes if self.memory_bytes is None else self.memory_bytes
        return min(given, memory.largest_bytes // self.num_workers)
