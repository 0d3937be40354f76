"""Lists of requests, made from a seed, so that every system gets the same ones."""

import random
from dataclasses import dataclass

_FIRST_PLAIN_TOKEN = 100  # the default model's special tokens come before
_LAST_PLAIN_TOKEN = 40_000


@dataclass(frozen=True, slots=True)
class Work:
    """One request: a prompt of token ids, an exact number of output tokens, seconds after the start."""

    prompt_token_ids: tuple[int, ...]
    output_tokens: int
    arrival_s: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Prompt and output together."""
        return len(self.prompt_token_ids) + self.output_tokens


def random_works(
    count: int,
    seed: int,
    inputs: tuple[int, int] = (128, 384),
    outputs: tuple[int, int] = (32, 96),
    rate_per_s: float | None = None,
) -> list[Work]:
    """Uniform lengths within the inclusive ranges; Poisson arrivals when a rate is given."""
    rng = random.Random(seed)
    works, arrival_s = [], 0.0
    for _ in range(count):
        length = rng.randint(*inputs)
        prompt = tuple(rng.randint(_FIRST_PLAIN_TOKEN, _LAST_PLAIN_TOKEN) for _ in range(length))
        works.append(Work(prompt, rng.randint(*outputs), arrival_s))
        if rate_per_s is not None:
            arrival_s += rng.expovariate(rate_per_s)
    return works
