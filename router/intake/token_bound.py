"""A lower bound on the number of tokens of a text, found without tokenizing it.

Byte-pair encoding puts each byte of its input into exactly one token. So n bytes make at least n /
(bytes of the longest token) tokens. tokenizer.json says whether a tokenizer is of this kind. A part
of it counts only if it is known to lose no byte, or bytes that can be counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tokenizers import pre_tokenizers

_Json = Mapping[str, object]
_KEEP_ALL = {"ByteLevel", "Metaspace", "Digits", "Punctuation", "Split"}
_FALLBACKS = [f"<0x{byte:02X}>" for byte in range(256)]
_NOT_ASCII = bytes(range(128, 256))


@dataclass(frozen=True, slots=True)
class TokenBound:
    """A tokenizer's bound: the longest token, and the bytes that may end in no token."""

    longest_bytes: int  # in one token
    lost: bytes  # bytes of UTF-8 that may end in no token

    def least_tokens(self, text: str) -> int:
        """Return a number of tokens that the text has at least. Takes milliseconds for megabytes."""
        kept = text.encode(errors="ignore").translate(None, self.lost)
        return -(-len(kept) // self.longest_bytes)


def find_bound(tokenizer: _Json) -> TokenBound | None:
    """Return the bound of a tokenizer.json's content; None when none is known."""
    model, added = _part(tokenizer, "model"), _parts(tokenizer.get("added_tokens"))
    splitters = _flat(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if (
        model.get("type") != "BPE"
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
        or not all(map(_keeps_all, splitters))
        or any(token.get("lstrip") or token.get("rstrip") for token in added)  # of any length
    ):
        return None
    vocab = cast("Mapping[str, int]", model.get("vocab") or {})
    normalizers = _flat(tokenizer.get("normalizer"), "normalizers")
    is_byte_level = any(splitter.get("type") == "ByteLevel" for splitter in splitters)
    lost = _lost_bytes(vocab, normalizers) if is_byte_level else _lost_else(model, normalizers)
    if lost is None:
        return None
    # a byte-level token has a character for each byte
    lengths = [len(token) if is_byte_level else len(token.encode()) for token in vocab]
    lengths += [len(str(token.get("content")).encode()) for token in added]
    return TokenBound(max(lengths), lost)


def _lost_bytes(vocab: Mapping[str, int], normalizers: list[_Json]) -> bytes | None:
    """Return the bytes that a byte-level tokenizer may drop: those without a symbol.

    NFC joins several characters to one, but at most one of them is ASCII.
    """
    if any(part.get("type") != "NFC" for part in normalizers):
        return None
    lost = {byte for byte in range(256) if _SYMBOLS[byte] not in vocab}
    return bytes(sorted(lost | set(_NOT_ASCII if normalizers else b"")))


def _lost_else(model: _Json, normalizers: list[_Json]) -> bytes | None:
    """Return b"" for a tokenizer with all byte fallbacks that shrinks no text; else None."""
    vocab = cast("Mapping[str, int]", model.get("vocab") or {})
    has_all = model.get("byte_fallback") and all(token in vocab for token in _FALLBACKS)
    return b"" if has_all and all(map(_only_grows, normalizers)) else None


def _keeps_all(splitter: _Json) -> bool:
    return splitter.get("type") in _KEEP_ALL and splitter.get("behavior") != "Removed"


def _only_grows(normalizer: _Json) -> bool:
    pattern, content = _part(normalizer, "pattern").get("String"), normalizer.get("content")
    match normalizer.get("type"), pattern, content:
        case "Prepend", _, _:
            return True
        case "Replace", str(), str():
            return len(content.encode()) >= len(pattern.encode())
    return False


def _symbols() -> list[str]:
    """Return the character that byte-level tokenizers write for each byte (the table of GPT-2)."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # characters that cover all bytes of UTF-8; 13 bytes never occur in it
    points = (*range(0x800), *range(0x800, 0x10000, 0x800), *range(0x10000, 0x110000, 0x10000))
    text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    ((written, _),) = splitter.pre_tokenize_str(text)
    symbols = dict(zip(text.encode(), written, strict=True))
    return [symbols.get(byte, "") for byte in range(256)]


_SYMBOLS = _symbols()


def _flat(part: object, inside: str) -> list[_Json]:
    """Return the parts of a sequence, nested ones too, or the single part."""
    if not isinstance(part, Mapping):
        return []
    if part.get("type") != "Sequence":
        return [part]
    return [each for nested in _parts(part.get(inside)) for each in _flat(nested, inside)]


def _part(parts: _Json, key: str) -> _Json:
    part = parts.get(key)
    return part if isinstance(part, Mapping) else {}


def _parts(parts: object) -> list[_Json]:
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
