"""Columns of progress bars: how fast the work goes, and when it ends."""

from rich.filesize import decimal
from rich.progress import ProgressColumn, Task
from rich.text import Text

_LEAST_BYTES = 100_000  # files are larger; steps, tensors and prompts are fewer


class RateColumn(ProgressColumn):
    """Bytes or things a second, as measured of late; empty while nobody knows."""

    def render(self, task: Task) -> Text:
        """Return the rate of a task."""
        speed = task.finished_speed or task.speed
        if speed is None or task.total is None:
            return Text("")
        is_bytes = task.total >= _LEAST_BYTES
        return Text(f"{decimal(int(speed))}/s" if is_bytes else f"{speed:.2g}/s")


class EndColumn(ProgressColumn):
    """Time that is left, or where it has ended or nobody knows its end, the time that it took."""

    max_refresh = 0.5  # seconds, so that the time does not flicker

    def render(self, task: Task) -> Text:
        """Return the time of a task."""
        left_s = task.time_remaining
        if task.finished or task.total is None or left_s is None:
            took_s = task.finished_time if task.finished else task.elapsed
            return Text(_clock(took_s or 0))
        return Text(f"{_clock(left_s)} left")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
