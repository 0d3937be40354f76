"""Outputs of an engine's steps, handed to subscribers."""

from collections.abc import Callable

from common.messages import StepOutput, WorkerLoad

Sink = Callable[[StepOutput], None]


class StepFeed:
    """Owns a worker's subscribers and its latest load. `publish` runs in the engine's thread."""

    def __init__(self) -> None:
        self.load = WorkerLoad()
        self._sinks: list[Sink] = []

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Call `sink` with every output from now on; return the function that ends it."""
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def publish(self, output: StepOutput) -> None:
        """Hand an output to all sinks, and remember its load if it carries one."""
        self.load = output.load or self.load
        for sink in tuple(self._sinks):
            sink(output)
