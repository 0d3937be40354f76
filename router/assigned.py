"""Prompts that this router sent out and that are not known to have run. Plain numbers; no sockets."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Assignment:
    """One prompt at the worker that runs it."""

    worker: str
    num_tokens: int  # to run there
    priority: int = 0


class Assigned:
    """Workers report their load; between two reports this is what is known besides."""

    def __init__(self) -> None:
        self._prompts: dict[str, set[Assignment]] = defaultdict(set)

    def add(self, worker: str, num_tokens: int, priority: int) -> Assignment:
        """A prompt sets out; `discard` must follow."""
        prompt = Assignment(worker, num_tokens, priority)
        self._prompts[worker].add(prompt)
        return prompt

    def discard(self, prompt: Assignment) -> None:
        """It has run, or never will. Safe to repeat."""
        self._prompts[prompt.worker].discard(prompt)

    def total(self, worker: str) -> int:
        """Prompt tokens on their way to a worker."""
        return sum(prompt.num_tokens for prompt in self._prompts[worker])

    def behind(self, worker: str, num_tokens: int, priority: int) -> int:
        """Of these, tokens of prompts that a prompt of so many overtakes where shorter ones go first."""
        rank = (priority, num_tokens)
        prompts = self._prompts[worker]
        return sum(p.num_tokens for p in prompts if (p.priority, p.num_tokens) > rank)
