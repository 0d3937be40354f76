"""Prompts that this router has sent and that are not known to have run. Plain numbers."""

from collections import defaultdict
from dataclasses import dataclass

from router.routing.prompt_order import PromptOrder, PromptTotals, Rank


@dataclass(eq=False, slots=True)
class SentPrompt:
    """A prompt at the worker that runs it."""

    worker: str
    num_tokens: int  # to run there
    rank: Rank


class SentPrompts:
    """The prompts at each worker, besides the load that the worker last reported.

    Those without a token to run there do not count.
    """

    def __init__(self) -> None:
        self._prompts: dict[str, PromptOrder[SentPrompt]] = defaultdict(PromptOrder)

    def add(self, worker: str, num_tokens: int, rank: Rank) -> SentPrompt:
        """Add a prompt that is sent; `discard` must follow."""
        prompt = SentPrompt(worker, num_tokens, rank)
        if num_tokens:
            self._prompts[worker].add(rank, num_tokens, prompt)
        return prompt

    def discard(self, prompt: SentPrompt) -> None:
        """Remove a prompt that has run, or never will. Safe to repeat."""
        self._prompts[prompt.worker].remove(prompt.rank, prompt)

    def totals(self, worker: str) -> PromptTotals:
        """Return the prompts at a worker, and their tokens."""
        prompts = self._prompts[worker]
        return PromptTotals(len(prompts), prompts.num_tokens)

    def num_tokens(self, worker: str) -> int:
        """Return the number of prompt tokens at a worker."""
        return self._prompts[worker].num_tokens

    def ahead(self, worker: str, rank: Rank) -> PromptTotals:
        """Return the prompts at a worker that run before a new one of this rank."""
        return self._prompts[worker].ahead(rank)

    def tokens_overtaken(self, worker: str, rank: Rank) -> list[int]:
        """Return the tokens of each prompt at a worker that a new one of this rank overtakes."""
        return self._prompts[worker].tokens_behind(rank)
