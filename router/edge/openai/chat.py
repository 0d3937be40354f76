"""Chat completions: from the deltas of a job to pieces, and from these to chunks or a whole answer.

A whole answer is put together from the very pieces that a stream shows, so that both say the same.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from common.messages import FinishReason
from router.edge.openai.answers import FINISH_REASONS, Json
from router.edge.openai.logprobs import ToBytes, chat_logprobs
from router.edge.openai.parsing.events import (
    CallArguments,
    CallStart,
    Content,
    Event,
    Parser,
    Reasoning,
)
from router.journey.progress import Delta, Summary


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """A piece of one choice: an event, what goes with its tokens, or the end."""

    index: int
    event: Event | None = None
    logprobs: tuple[Json, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | None = None
    is_first: bool = False

    def to_json(self) -> Json:
        """Return the choice of a chunk."""
        shown: Json = {
            "index": self.index,
            "delta": self._change(),
            "logprobs": _logprobs(self.logprobs),
            "finish_reason": self.finish_reason,
        }
        if self.finish_reason is not None:
            shown["stop_reason"] = self.stop_reason
        if self.token_ids is not None:
            shown["token_ids"] = list(self.token_ids)
        return shown

    def _change(self) -> Json:
        if self.is_first:
            return {"role": "assistant", "content": ""}
        if self.event is not None:
            return _change(self.event)
        return {} if self.finish_reason is not None else {"content": ""}


@dataclass(slots=True)
class ChatChoice:
    """One choice of a chat as its deltas come."""

    index: int
    parser: Parser
    to_bytes: ToBytes
    shows_token_ids: bool
    shows_stop_text: bool
    has_begun: bool = False
    num_calls: int = 0
    last_arguments: list[str] = field(default_factory=list)  # of the newest call

    def take(self, delta: Delta) -> Iterator[ChatPiece]:
        """Yield the pieces that a delta makes; the role comes first, the reason last."""
        if not self.has_begun:
            self.has_begun = True
            yield ChatPiece(self.index, is_first=True)
        logprobs = tuple(chat_logprobs(delta, self.to_bytes)) if delta.logprobs else None
        token_ids = delta.token_ids if self.shows_token_ids and delta.token_ids else None
        events: Sequence[Event | None] = self._events(delta)
        if not events and (logprobs or token_ids):
            events = [None]  # their text is held back
        for event in events:
            yield ChatPiece(self.index, event, logprobs, token_ids)
            logprobs = token_ids = None
        if delta.summary is not None:
            stop_text = delta.summary.stop_text or None
            reason = self._finish_reason(delta.summary)
            yield ChatPiece(self.index, finish_reason=reason, stop_reason=stop_text)

    def _finish_reason(self, summary: Summary) -> str:
        """Return the reason; it is no call where a stop text of the client's cut the arguments."""
        if not self.num_calls or summary.reason is not FinishReason.STOP:
            return FINISH_REASONS[summary.reason]
        is_cut = summary.stop_text and not _is_json("".join(self.last_arguments))
        return FINISH_REASONS[summary.reason] if is_cut else "tool_calls"

    def _events(self, delta: Delta) -> list[Event]:
        summary, text = delta.summary, delta.text
        if summary is not None and self.shows_stop_text:
            text += summary.stop_text
        events = [*self.parser.push(text)]
        if summary is not None:
            events += self.parser.finish()
        for event in events:
            if isinstance(event, CallStart):
                self.num_calls += 1
                self.last_arguments = []
            elif isinstance(event, CallArguments):
                self.last_arguments.append(event.text)
        return events


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    arguments: str = ""

    def to_json(self) -> Json:
        """Return the call of a message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


@dataclass(slots=True)
class _Whole:
    """One choice of an answer that is sent at once."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: tuple[Json, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    end: ChatPiece | None = None

    def add(self, piece: ChatPiece) -> None:
        """Take the next piece."""
        match piece.event:
            case Content(text):
                self.texts.append(text)
            case Reasoning(text):
                self.thoughts.append(text)
            case CallStart(_, call_id, name):
                self.calls.append(_Call(call_id, name))
            case CallArguments(number, text):
                self.calls[number].arguments += text
        if piece.logprobs is not None:
            self.logprobs = (*(self.logprobs or ()), *piece.logprobs)
        if piece.token_ids is not None:
            self.token_ids = (*(self.token_ids or ()), *piece.token_ids)
        if piece.finish_reason is not None:
            self.end = piece

    def to_json(self, index: int) -> Json:
        """Return the choice of a whole answer."""
        text = "".join(self.texts)
        message: Json = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": None,
        }
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = [call.to_json() for call in self.calls]
        shown: Json = {
            "index": index,
            "message": message,
            "logprobs": _logprobs(self.logprobs),
            "finish_reason": self.end.finish_reason if self.end else None,
            "stop_reason": self.end.stop_reason if self.end else None,
        }
        if self.token_ids is not None:
            shown["token_ids"] = list(self.token_ids)
        return shown


def whole_choices(pieces: Iterable[ChatPiece], num_choices: int) -> list[Json]:
    """Return the choices of a whole answer."""
    found = [_Whole() for _ in range(num_choices)]
    for piece in pieces:
        found[piece.index].add(piece)
    return [whole.to_json(index) for index, whole in enumerate(found)]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _logprobs(entries: tuple[Json, ...] | None) -> Json | None:
    return None if entries is None else {"content": list(entries), "refusal": None}


def _change(event: Event) -> Json:
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case CallStart(number, call_id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": number, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case CallArguments(number, text):
            return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
