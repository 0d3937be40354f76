"""Ranges of the sampling options, for clients' requests and the model's own defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both part of it unless it is open."""

    low: float
    high: float
    is_open: bool = False  # the low end is not part of it

    def __contains__(self, value: float) -> bool:  # false for NaN
        is_above = value > self.low if self.is_open else value >= self.low
        return is_above and value <= self.high

    def __str__(self) -> str:
        return f"{'(' if self.is_open else '['}{self.low:g}, {self.high:g}]"


BIASES = Range(-100, 100)
RANGES = {
    "temperature": Range(0, 100),
    "top_k": Range(0, 2**31 - 1),
    "top_p": Range(0, 1, is_open=True),
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0.01, 100),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "logprobs": Range(0, 20),
    "prompt_logprobs": Range(0, 20),
}
