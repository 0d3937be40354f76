"""What chats and completions share in their answers: ids, counts, reasons."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from common.messages import FinishReason
from router.journey.progress import Delta

Json = dict[str, object]  # an object on its way to the wire

FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


def now_s() -> int:
    """Return the time of day in seconds since 1970, for a person to read."""
    return int(datetime.now(UTC).timestamp())


@dataclass(frozen=True, slots=True)
class Head:
    """What all messages of one answer begin with."""

    answer_id: str
    kind: str  # OpenAI's `object`
    model: str
    created: int = field(default_factory=now_s)

    def message(self, choices: Sequence[Json]) -> Json:
        """Return a message with these choices."""
        return {
            "id": self.answer_id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }


@dataclass(slots=True)
class Counts:
    """The tokens of one answer: of all its prompts and choices."""

    num_prompt_tokens: int
    num_output_tokens: int = 0
    num_cached_tokens: int = 0

    def add(self, delta: Delta) -> None:
        """Count what a delta brings."""
        self.num_output_tokens += len(delta.token_ids)
        if delta.summary is not None and not delta.choice:  # choices share one prompt
            self.num_cached_tokens += delta.summary.timings.num_cached_tokens

    def usage(self) -> Json:
        """Return OpenAI's `usage`."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }
