"""Text of tokens as they come: never half a character, and no text behind a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class IncrementalDetokenizer:
    """Turns a growing list of tokens into a growing text.

    A token's text may depend on its neighbours. So the tokens since a safe point are decoded twice,
    with and without the new ones. The difference is the new text (the two-offset method of TGI and
    vLLM). Text that ends in the replacement character may be an unfinished character and is held
    back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._prefix = 0  # tokens before this no longer influence new text
        self._read = 0  # tokens before this have been returned as text

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens, and return the text that is now certain."""
        self._tokens.extend(token_ids)
        text = self._pending()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        self._prefix, self._read = self._read, len(self._tokens)
        return text

    def flush(self) -> str:
        """Return the rest at the end, even if it is not a whole character."""
        text = self._pending()
        self._prefix = self._read = len(self._tokens)
        return text

    def _pending(self) -> str:
        known = self._decode(self._tokens[self._prefix : self._read])
        return self._decode(self._tokens[self._prefix :])[len(known) :]


class StopStrings:
    """Finds the first stop text in a stream, across pieces, and holds back what may become one.

    The first is the one that is complete first; of several complete at one place, the longest. So the
    result does not depend on the cuts between pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = ""  # the text that was found

    @property
    def is_hit(self) -> bool:
        """True once a stop text was found."""
        return bool(self.hit)

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Add text, and return the text that may be sent.

        After a hit, `hit` is set and the rest is dropped. A stop text that this text completes
        counts only if `may_stop`.
        """
        if self.is_hit:
            return ""
        known = len(self._held)
        self._held += text
        found = [
            (at + len(stop), at)
            for stop in self._stops
            # a stop text that ends before the new text was complete earlier, and did not count
            if (at := self._held.find(stop, max(0, known - len(stop) + 1))) >= 0
        ]
        if found and may_stop:
            end, start = min(found)
            self.hit = self._held[start:end]
            return self._release(start)
        return self._release(len(self._held) - self._longest_possible_start())

    def flush(self) -> str:
        """Return the text held back at the end, which did not become a stop text."""
        return "" if self.is_hit else self._release(len(self._held))

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        return released

    def _longest_possible_start(self) -> int:
        """Return the length of the longest end of the held text that some stop text begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
