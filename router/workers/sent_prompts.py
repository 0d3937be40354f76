"""Prompts that this router has sent and that are not known to have run. Plain numbers."""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(eq=False, slots=True)
class SentPrompt:
    """A prompt at the worker that runs it."""

    worker: str
    num_tokens: int  # to run there
    priority: int = 0


class SentTotals(NamedTuple):
    """Prompts sent to one worker; those without a token to run there do not count."""

    num_prompts: int
    num_tokens: int


class SentPrompts:
    """The prompts at each worker, besides the load that the worker last reported."""

    def __init__(self) -> None:
        self._prompts: dict[str, set[SentPrompt]] = defaultdict(set)
        self._totals: dict[str, SentTotals] = defaultdict(lambda: SentTotals(0, 0))

    def add(self, worker: str, num_tokens: int, priority: int) -> SentPrompt:
        """Add a prompt that is sent; `discard` must follow."""
        prompt = SentPrompt(worker, num_tokens, priority)
        self._prompts[worker].add(prompt)
        self._count(prompt, 1)
        return prompt

    def discard(self, prompt: SentPrompt) -> None:
        """Remove a prompt that has run, or never will. Safe to repeat."""
        if prompt in self._prompts[prompt.worker]:
            self._prompts[prompt.worker].remove(prompt)
            self._count(prompt, -1)

    def totals(self, worker: str) -> SentTotals:
        """Return the prompts at a worker, and their tokens."""
        return self._totals[worker]

    def num_tokens(self, worker: str) -> int:
        """Return the number of prompt tokens at a worker."""
        return self.totals(worker).num_tokens

    def num_overtaken_tokens(self, worker: str, num_tokens: int, priority: int) -> int:
        """Return the tokens in prompts that a new prompt overtakes: shorter prompts go first."""
        rank = (priority, num_tokens)
        prompts = self._prompts[worker]
        return sum(p.num_tokens for p in prompts if (p.priority, p.num_tokens) > rank)

    def _count(self, prompt: SentPrompt, sign: int) -> None:
        num_prompts, num_tokens = self._totals[prompt.worker]
        self._totals[prompt.worker] = SentTotals(
            num_prompts + sign * bool(prompt.num_tokens), num_tokens + sign * prompt.num_tokens
        )
