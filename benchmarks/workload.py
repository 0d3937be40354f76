"""Lists of requests made from a seed, so that every system gets the same ones."""

import random
from dataclasses import dataclass

_FIRST_PLAIN_TOKEN = 100  # the default model's special tokens come before it
_LAST_PLAIN_TOKEN = 40_000


@dataclass(frozen=True, slots=True)
class Work:
    """One request: prompt token ids, an exact number of output tokens, arrival in seconds."""

    prompt_token_ids: tuple[int, ...]
    output_tokens: int
    arrival_s: float = 0.0

    @property
    def total_tokens(self) -> int:
        """The tokens of prompt and output together."""
        return len(self.prompt_token_ids) + self.output_tokens


def random_works(
    count: int,
    seed: int,
    inputs: tuple[int, int] = (128, 384),
    outputs: tuple[int, int] = (32, 96),
    rate_per_s: float | None = None,
) -> list[Work]:
    """Return works of uniform lengths (inclusive ranges); Poisson arrivals if a rate is given."""
    rng = random.Random(seed)
    works, arrival_s = [], 0.0
    for _ in range(count):
        length = rng.randint(*inputs)
        prompt = tuple(rng.randint(_FIRST_PLAIN_TOKEN, _LAST_PLAIN_TOKEN) for _ in range(length))
        works.append(Work(prompt, rng.randint(*outputs), arrival_s))
        if rate_per_s is not None:
            arrival_s += rng.expovariate(rate_per_s)
    return works


@dataclass(frozen=True, slots=True)
class Shape:
    """A request without its text: its prompt is a list of segments (content id, length).

    Segments of one id begin with the same tokens. So prompts that begin with the same ids share a
    prefix.
    """

    arrival_s: float  # on the trace's own clock
    segments: tuple[tuple[str, int], ...]
    output_tokens: int

    @property
    def input_tokens(self) -> int:
        """Length of the prompt."""
        return sum(length for _, length in self.segments)


def offered_at(shapes: list[Shape], rate_per_s: float, seed: str) -> list[Work]:
    """Return all requests but the last at a mean rate; gaps are scaled, so bursts stay bursts.

    The last shape only ends the last gap. `seed` makes the text; other seeds share no prefix.
    Raises ValueError for shapes that span no time.
    """
    span_s = shapes[-1].arrival_s - shapes[0].arrival_s
    if span_s <= 0:
        raise ValueError("requests that all arrive at once have no rate")
    stretch = (len(shapes) - 1) / rate_per_s / span_s
    return [
        Work(
            tuple(token for part in shape.segments for token in _content(seed, *part)),
            shape.output_tokens,
            (shape.arrival_s - shapes[0].arrival_s) * stretch,
        )
        for shape in shapes[:-1]
    ]


def _content(seed: str, content_id: str, length: int) -> list[int]:
    rng = random.Random(f"{seed}/{content_id}")
    return [rng.randint(_FIRST_PLAIN_TOKEN, _LAST_PLAIN_TOKEN) for _ in range(length)]
