"""Prompts that this router sent out and that are not known to have run. Plain numbers; no sockets."""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(eq=False, slots=True)
class SentPrompt:
    """One prompt at the worker that runs it."""

    worker: str
    num_tokens: int  # to run there
    priority: int = 0


class SentTotals(NamedTuple):
    """Prompts on their way to one worker; those with nothing to run there do not count."""

    num_prompts: int
    num_tokens: int


class SentPrompts:
    """Workers report their load; between two reports this is what is known besides."""

    def __init__(self) -> None:
        self._prompts: dict[str, set[SentPrompt]] = defaultdict(set)
        self._totals: dict[str, SentTotals] = defaultdict(lambda: SentTotals(0, 0))

    def add(self, worker: str, num_tokens: int, priority: int) -> SentPrompt:
        """A prompt sets out; `discard` must follow."""
        prompt = SentPrompt(worker, num_tokens, priority)
        self._prompts[worker].add(prompt)
        self._count(prompt, 1)
        return prompt

    def discard(self, prompt: SentPrompt) -> None:
        """It has run, or never will. Safe to repeat."""
        if prompt in self._prompts[prompt.worker]:
            self._prompts[prompt.worker].remove(prompt)
            self._count(prompt, -1)

    def totals(self, worker: str) -> SentTotals:
        """All that is on its way to a worker."""
        return self._totals[worker]

    def num_tokens(self, worker: str) -> int:
        """Prompt tokens on their way to a worker."""
        return self.totals(worker).num_tokens

    def num_overtaken_tokens(self, worker: str, num_tokens: int, priority: int) -> int:
        """Of these, tokens of prompts that a prompt of so many overtakes where shorter ones go first."""
        rank = (priority, num_tokens)
        prompts = self._prompts[worker]
        return sum(p.num_tokens for p in prompts if (p.priority, p.num_tokens) > rank)

    def _count(self, prompt: SentPrompt, sign: int) -> None:
        num_prompts, num_tokens = self._totals[prompt.worker]
        self._totals[prompt.worker] = SentTotals(
            num_prompts + sign * bool(prompt.num_tokens), num_tokens + sign * prompt.num_tokens
        )
