"""The bytes that each token of a tokenizer stands for: a token may be part of a character."""

from collections.abc import Callable

_SPACE = "\u2581"  # how SentencePiece writes a space


def find_token_bytes(decoder: object) -> Callable[[str], bytes]:
    """Return the function from a token's text in tokenizer.json to its bytes.

    `decoder` is that file's decoder: byte-level BPE maps bytes to letters (GPT-2), SentencePiece
    writes single bytes as <0xE2> and spaces as U+2581.
    """
    if "ByteLevel" in _kinds(decoder):
        letters = _byte_letters()
        return lambda text: _of_letters(text, letters)
    return _of_pieces


def _kinds(decoder: object) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    inner = decoder.get("decoders")
    found = {str(decoder.get("type"))}
    return found.union(*map(_kinds, inner)) if isinstance(inner, list) else found


def _byte_letters() -> dict[str, int]:
    """Return GPT-2's letter of each byte: printable ones are themselves, others follow from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    letters.update({chr(0x100 + number): byte for number, byte in enumerate(others)})
    return letters


def _of_letters(text: str, letters: dict[str, int]) -> bytes:
    if any(letter not in letters for letter in text):  # an added token stands for itself
        return text.encode()
    return bytes(letters[letter] for letter in text)


def _of_pieces(text: str) -> bytes:
    is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    if is_byte:
        return bytes([int(text[3:5], 16)])
    return text.replace(_SPACE, " ").encode()
