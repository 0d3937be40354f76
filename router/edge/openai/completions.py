"""Text completions: from the deltas of their jobs to pieces, and from these to chunks or a whole answer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from router.edge.openai.answers import FINISH_REASONS, Json
from router.edge.openai.logprobs import (
    CompletionLogprobs,
    ToBytes,
    completion_logprobs,
    prompt_entries,
)
from router.journey.progress import Delta


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of one choice."""

    index: int
    text: str = ""
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: tuple[Json | None, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | None = None

    def to_json(self) -> Json:
        """Return the choice of a chunk or of a whole answer."""
        shown: Json = {
            "index": self.index,
            "text": self.text,
            "logprobs": self.logprobs.to_json() if self.logprobs else None,
            "finish_reason": self.finish_reason,
        }
        if self.finish_reason is not None:
            shown["stop_reason"] = self.stop_reason
        if self.prompt_logprobs is not None:
            shown["prompt_logprobs"] = list(self.prompt_logprobs)
        if self.token_ids is not None:
            shown["token_ids"] = list(self.token_ids)
        return shown

    def followed_by(self, next_piece: "TextPiece") -> "TextPiece":
        """Return this piece and the next as one."""
        both = [p.logprobs for p in (self, next_piece) if p.logprobs is not None]
        ids = [p.token_ids for p in (self, next_piece) if p.token_ids is not None]
        return TextPiece(
            self.index,
            self.text + next_piece.text,
            both[0].followed_by(*both[1:]) if both else None,
            self.prompt_logprobs or next_piece.prompt_logprobs,
            tuple(i for part in ids for i in part) if ids else None,
            next_piece.finish_reason,
            next_piece.stop_reason,
        )


@dataclass(slots=True)
class CompletionChoice:
    """One choice of a completion as its deltas come."""

    index: int
    echo: str  # the prompt's text, where the answer repeats it
    prompt_ids: Sequence[int]
    to_bytes: ToBytes
    shows_token_ids: bool
    shows_stop_text: bool
    num_chars: int = field(default=0)

    def take(self, delta: Delta) -> Iterator[TextPiece]:
        """Yield the piece that a delta makes; none if it says nothing new."""
        summary, text = delta.summary, delta.text
        if self.echo and not delta.index:
            text, self.echo = self.echo + text, ""
        if summary is not None and self.shows_stop_text:
            text += summary.stop_text
        logprobs = completion_logprobs(delta, self.num_chars, self.to_bytes)
        self.num_chars += logprobs.num_chars if logprobs else 0
        prompt = prompt_entries(delta.prompt_logprobs, self.prompt_ids, self.to_bytes)
        token_ids = delta.token_ids if self.shows_token_ids and delta.token_ids else None
        if text or summary or logprobs or prompt or token_ids:
            yield TextPiece(
                self.index,
                text,
                logprobs,
                prompt,
                token_ids,
                FINISH_REASONS[summary.reason] if summary else None,
                (summary.stop_text or None) if summary else None,
            )


def whole_choices(pieces: Iterable[TextPiece], num_choices: int) -> list[Json]:
    """Return the choices of a whole answer."""
    found = [TextPiece(index) for index in range(num_choices)]
    for piece in pieces:
        found[piece.index] = found[piece.index].followed_by(piece)
    return [whole.to_json() for whole in found]
