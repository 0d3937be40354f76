"""Tokenizers small enough to work out by hand: one token a byte, in the two styles that models use."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

# In the byte-level tokenizer a token's id is its byte's value; then come these.
IM_START, IM_END, BOS = 256, 257, 258
VOCAB_SIZE = 259
SPECIALS = ("<|im_start|>", "<|im_end|>", "<s>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(*, adds_bos: bool = False, more_specials: Sequence[str] = ()) -> Tokenizer:
    """GPT-2 style without merges: `encode(text).ids == list(text.encode())`."""
    tokenizer = Tokenizer(models.BPE(vocab=_byte_symbols(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [*SPECIALS, *more_specials]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Llama style: a few words, one token a byte for whatever they do not cover (ids 0 to 255)."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for word in ("▁", "a", "e", "th", "▁th", "▁the", "é"):
        vocab[word] = len(vocab)
    merges = [("▁", "th"), ("▁th", "e")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def write_folder(
    folder: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    adds_bos: bool = False,
    more_specials: Sequence[str] = (),
) -> Path:
    """A model folder as far as the router reads one; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level(adds_bos=adds_bos, more_specials=more_specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {
        "bos_token": {"content": "<s>", "special": True},
        "eos_token": "<|im_end|>",
    }
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _byte_symbols() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte (the table of GPT-2)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in sorted(printable)}
    return symbols | {chr(256 + position): byte for position, byte in enumerate(others)}
