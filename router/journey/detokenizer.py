"""Text of tokens as they come: never half a character, and no text behind a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MAX_UNFINISHED = 3  # tokens


class IncrementalDetokenizer:
    """Turns a growing list of tokens into a growing text, at a constant cost a token.

    A token's text may depend on its neighbours. So the tokens since a safe point are decoded twice,
    with and without the new ones. The difference is the new text (the two-offset method of TGI and
    vLLM). Replacement characters at the end may be an unfinished character and are held back, those
    of three tokens at most: a character has four bytes at most, and a token one at least.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # without those that no longer influence new text
        self._read = 0  # tokens before this have been returned as text
        self._num_sent = 0  # characters of the others that were returned too

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens, and return the text that is now certain."""
        return "".join(map(self._push, token_ids))

    def flush(self) -> str:
        """Return the rest at the end, even if it is not a whole character."""
        text = self._pending(len(self._tokens))
        return self._take(text, len(text), len(self._tokens))

    def _push(self, token_id: int) -> str:
        self._tokens.append(token_id)
        end = len(self._tokens)
        text = self._pending(end)
        num_certain = len(text.rstrip(_REPLACEMENT))
        if num_certain == len(text):
            return self._take(text, len(text), end)
        if end - self._read <= _MAX_UNFINISHED:
            return self._take(text, num_certain, self._read)
        first = len(self._pending(self._read + 1))  # too far back to be unfinished
        new = self._take(text, max(num_certain, first), self._read + 1)
        self._num_sent = max(num_certain - first, 0)
        return new

    def _pending(self, end: int) -> str:
        """Return the text of the tokens from `_read` to an end."""
        known = self._decode(self._tokens[: self._read])
        return self._decode(self._tokens[:end])[len(known) :]

    def _take(self, text: str, length: int, read: int) -> str:
        """Return what is new of a pending text's first characters; tokens before `read` are done."""
        new = text[self._num_sent : length]
        if read == self._read:
            self._num_sent = max(self._num_sent, length)
        else:
            del self._tokens[: self._read]
            self._read = read - self._read
            self._num_sent = 0
        return new


class StopStrings:
    """Finds the first stop text in a stream, across pieces, and holds back what may become one.

    The first is the one that is complete first; of several complete at one place, the longest. So the
    result does not depend on the cuts between pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._max_held = max((len(stop) for stop in stops), default=1) - 1
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
        if not self._stops:
            return text
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
        for length in range(min(self._max_held, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
