"""Counts of the requests that are queued."""

from dataclasses import dataclass


@dataclass(slots=True)
class Queued:
    """Counts of requests without a token."""

    num_requests: int = 0
    num_tokens: int = 0  # in their prompts

    def add(self, sign: int, num_prompt_tokens: int) -> None:
        """Count a request that came (`sign` 1) or went (-1)."""
        self.num_requests += sign
        self.num_tokens += sign * num_prompt_tokens
