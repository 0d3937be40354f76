"""The end of a JSON value in a text that comes in pieces."""


class ValueScanner:
    """Finds where a value ends that begins with the first letter. Costs one look at each letter.

    A `<` outside of strings is not JSON, but may begin a mark, so it ends a broken value too.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = self._is_escaped = False

    def take(self, text: str) -> tuple[int, bool]:
        """Return the number of letters that belong to the value, and True once it has ended."""
        for at, letter in enumerate(text):
            if self._is_string:
                if self._ends_string(letter) and not self._depth:
                    return at + 1, True
            elif letter == '"':
                self._is_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    return at + 1, True
            elif letter in "}]<" or (not self._depth and letter in ", \t\r\n"):
                return at, True
        return len(text), False

    def _ends_string(self, letter: str) -> bool:
        self._is_string = self._is_escaped or letter != '"'
        self._is_escaped = not self._is_escaped and letter == "\\"
        return not self._is_string
