"""The output of a response: items that grow, and the events that tell of it.

1. A text, a thought and a call are items of their own; an event of another kind closes the open one.
2. Each item is added, gets its deltas, and is done; a text's part too, as OpenAI's API has it.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.edge.openai.answers import Json
from router.edge.openai.chat import ChatPiece
from router.edge.openai.parsing.events import CallArguments, CallStart, Content, Reasoning


@dataclass(slots=True)
class Item:
    """One item of the output."""

    kind: str  # message, reasoning or function_call
    item_id: str
    index: int
    name: str = ""
    call_id: str = ""
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    is_done: bool = False
    is_cut: bool = False

    @property
    def text(self) -> str:
        """Return all of its text, or its arguments."""
        return "".join(self.texts)

    def part(self) -> Json:
        """Return the only part of its content."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.logprobs,
        }

    def to_json(self) -> Json:
        """Return the item as it is now."""
        ended = "incomplete" if self.is_cut else "completed"
        shown: Json = {
            "id": self.item_id,
            "type": self.kind,
            "status": ended if self.is_done else "in_progress",
        }
        if self.kind == "function_call":
            return {**shown, "call_id": self.call_id, "name": self.name, "arguments": self.text}
        content = [self.part()] if self.is_done else []
        if self.kind == "reasoning":
            return {**shown, "summary": [], "content": content}
        return {**shown, "role": "assistant", "content": content}


_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_DELTAS = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}


class Output:
    """The items of one response as its pieces come."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.finish_reason: str | None = None

    def take(self, piece: ChatPiece) -> Iterator[Json]:
        """Yield the events of a piece, without their numbers."""
        match piece.event:
            case Content(text):
                yield from self._add("message", text, piece)
            case Reasoning(text):
                yield from self._add("reasoning", text, piece)
            case CallStart(_, call_id, name):
                yield from self._close()
                yield from self._begin("function_call", name, call_id)
            case CallArguments(_, text):
                yield from self._grow(self.items[-1], text, piece)
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
            yield from self._close(is_cut=piece.finish_reason == "length")

    def _add(self, kind: str, text: str, piece: ChatPiece) -> Iterator[Json]:
        last = self.items[-1] if self.items else None
        if last is None or last.is_done or last.kind != kind:
            yield from self._close()
            yield from self._begin(kind)
        yield from self._grow(self.items[-1], text, piece)

    def _begin(self, kind: str, name: str = "", call_id: str = "") -> Iterator[Json]:
        item_id = f"{_PREFIXES[kind]}_{secrets.token_hex(12)}"
        item = Item(kind, item_id, len(self.items), name, call_id)
        self.items.append(item)
        yield {
            "type": "response.output_item.added",
            "output_index": item.index,
            "item": item.to_json(),
        }
        if kind != "function_call":
            yield {**_place(item), "type": "response.content_part.added", "part": item.part()}

    def _grow(self, item: Item, text: str, piece: ChatPiece) -> Iterator[Json]:
        item.texts.append(text)
        delta: Json = {**_place(item), "type": f"{_DELTAS[item.kind]}.delta", "delta": text}
        if item.kind == "message":
            delta["logprobs"] = list(piece.logprobs or ())
            item.logprobs += piece.logprobs or ()
        yield delta

    def _close(self, *, is_cut: bool = False) -> Iterator[Json]:
        item = self.items[-1] if self.items else None
        if item is None or item.is_done:
            return
        item.is_done, item.is_cut = True, is_cut
        done = {**_place(item), "type": f"{_DELTAS[item.kind]}.done"}
        if item.kind == "function_call":
            yield {**done, "arguments": item.text, "name": item.name}
        else:
            logprobs: Json = {"logprobs": item.logprobs} if item.kind == "message" else {}
            yield {**done, "text": item.text, **logprobs}
            yield {**_place(item), "type": "response.content_part.done", "part": item.part()}
        yield {
            "type": "response.output_item.done",
            "output_index": item.index,
            "item": item.to_json(),
        }


def _place(item: Item) -> Json:
    place: Json = {"item_id": item.item_id, "output_index": item.index}
    return place if item.kind == "function_call" else {**place, "content_index": 0}
