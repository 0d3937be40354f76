"""A double of pinned memory, for DeviceInputs on the CPU."""

import torch

from common.engine.device_inputs import DeviceInputs, Stage

CPU = torch.device("cpu")


class PlainStage:
    """Stage whose memory the CPU copies itself, at once. `events` lists the calls."""

    def __init__(self, num_bytes: int, events: list[str] | None = None) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8)
        self.events = [] if events is None else events

    def wait(self) -> None:
        self.events.append("wait")

    def copying(self) -> None:
        self.events.append("copying")


def plain_inputs() -> DeviceInputs:
    """Make inputs on the CPU."""

    def new_stage(num_bytes: int) -> Stage:
        return PlainStage(num_bytes)

    return DeviceInputs(CPU, new_stage)
