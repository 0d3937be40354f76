"""Log-probabilities as chats and completions show them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from common.messages import FinishReason, TokenLogprobs
from router.edge.openai.answers import Json
from router.journey.progress import Delta

ToBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class CompletionLogprobs:
    """The `logprobs` of a completion: one entry a token in each column."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]

    @property
    def num_chars(self) -> int:
        """The length of all tokens' texts."""
        return sum(map(len, self.tokens))

    def to_json(self) -> Json:
        """Return the columns."""
        return {
            "tokens": list(self.tokens),
            "token_logprobs": list(self.token_logprobs),
            "top_logprobs": list(self.top_logprobs),
            "text_offset": list(self.text_offset),
        }

    def followed_by(self, *others: "CompletionLogprobs") -> "CompletionLogprobs":
        """Return all as one."""
        parts = (self, *others)
        return CompletionLogprobs(
            tuple(entry for part in parts for entry in part.tokens),
            tuple(entry for part in parts for entry in part.token_logprobs),
            tuple(entry for part in parts for entry in part.top_logprobs),
            tuple(entry for part in parts for entry in part.text_offset),
        )


def visible(delta: Delta) -> Iterator[tuple[int, TokenLogprobs]]:
    """Yield a delta's tokens with their log-probabilities, without a token that ended the answer."""
    summary, number = delta.summary, len(delta.logprobs)
    if not number:  # nobody asked for them
        return
    if summary is not None and summary.reason is FinishReason.STOP and not summary.stop_text:
        number -= 1
    yield from zip(delta.token_ids[:number], delta.logprobs[:number], strict=True)


def chat_logprobs(delta: Delta, to_bytes: ToBytes) -> Iterator[Json]:
    """Yield the entries of `logprobs.content`, one for each token that is shown."""
    for token_id, place in visible(delta):
        tops = zip(place.top_token_ids, place.top_logprobs, strict=True)
        shown = [_entry(other, logprob, to_bytes) for other, logprob in tops]
        yield {**_entry(token_id, place.logprob, to_bytes), "top_logprobs": shown}


def completion_logprobs(delta: Delta, offset: int, to_bytes: ToBytes) -> CompletionLogprobs | None:
    """Return a completion's columns; `offset` is the first token's place in the answer's text."""
    entries = list(visible(delta))
    if not entries:
        return None
    tokens = tuple(_text(to_bytes(token_id)) for token_id, _ in entries)
    offsets = []
    for text in tokens:
        offsets.append(offset)
        offset += len(text)
    tops = tuple(
        {
            _text(to_bytes(other)): logprob
            for other, logprob in zip(place.top_token_ids, place.top_logprobs, strict=True)
        }
        for _, place in entries
    )
    return CompletionLogprobs(tokens, tuple(p.logprob for _, p in entries), tops, tuple(offsets))


def prompt_entries(
    places: Sequence[TokenLogprobs], token_ids: Sequence[int], to_bytes: ToBytes
) -> tuple[Json | None, ...] | None:
    """Return vLLM's `prompt_logprobs`: null for the first token, then one object a token, by ids."""
    if not places:
        return None
    entries: list[Json | None] = [None]
    for place, token_id in zip(places, token_ids[1:], strict=True):
        tops = zip(place.top_token_ids, place.top_logprobs, strict=True)
        entry: Json = {
            str(other): _ranked(other, logprob, rank, to_bytes)
            for rank, (other, logprob) in enumerate(tops, 1)
        }
        entry.setdefault(str(token_id), _ranked(token_id, place.logprob, None, to_bytes))
        entries.append(entry)
    return tuple(entries)


def _ranked(token_id: int, logprob: float, rank: int | None, to_bytes: ToBytes) -> Json:
    return {"logprob": logprob, "rank": rank, "decoded_token": _text(to_bytes(token_id))}


def _entry(token_id: int, logprob: float, to_bytes: ToBytes) -> Json:
    data = to_bytes(token_id)
    return {"token": _text(data), "logprob": logprob, "bytes": list(data)}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
