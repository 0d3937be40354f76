"""Control tokens that stand in a user's text: text they stay, whatever the chat template does with it.

1. `protect` puts a mark into each occurrence of a special token's text, before the template is rendered.
2. `split` cuts the rendered chat at the special tokens that the template wrote, and takes the marks out.
3. Pieces between them are encoded with special tokens read as plain text (Tokenizer.encode_chat_text).

A template that takes content apart (some look for `</think>`) sees marked text only where it holds a
special token, which is not one of theirs.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

# a noncharacter: valid in UTF-8, meaningless in every text, and refused in input
_MARK = "\ufdd0"


class LiteralText:
    """Finds a tokenizer's special tokens in texts."""

    def __init__(self, specials: Iterable[str]) -> None:
        """`specials`: the texts of the tokenizer's special tokens."""
        found = sorted((text for text in specials if len(text) > 1), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found))) if found else None

    def protect(self, text: str) -> str:
        """Return a text whose special tokens are none any more for `split`."""
        text = text.replace(_MARK, "")
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: match[0][0] + _MARK + match[0][1:], text)

    def protect_all(self, value: object) -> object:
        """Return JSON data whose strings are all protected; keys stay as they are."""
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, list):
            return [self.protect_all(entry) for entry in value]
        if isinstance(value, Mapping):
            return {key: self.protect_all(entry) for key, entry in value.items()}
        return value

    def is_marked(self, text: str) -> bool:
        """Tell whether a rendered text holds protected ones."""
        return _MARK in text

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the pieces of a rendered text: (special token, True) or (plain text, False)."""
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() > start:
                yield text[start : match.start()].replace(_MARK, ""), False
            yield match[0], True
            start = match.end()
        if start < len(text):
            yield text[start:].replace(_MARK, ""), False
