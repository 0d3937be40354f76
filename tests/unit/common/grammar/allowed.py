"""Masks as sets of tokens, over the tokenizer whose tokens are bytes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.grammar.compiler import GrammarCompiler
from common.grammar.matcher import GrammarMatcher, MaskFiller
from common.messages import Grammar, GrammarKind
from tests.patience import WITHIN_S
from tests.unit.router.tiny_tokenizer import IM_END, VOCAB_SIZE

EOS = IM_END
# a model has more logits than its tokenizer has tokens
VOCAB = VOCAB_SIZE + 12


def regex(pattern: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, (pattern,))


def schema(text: str) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, (text,))


def choice(*texts: str) -> Grammar:
    return Grammar(GrammarKind.CHOICE, texts)


def lark(text: str) -> Grammar:
    return Grammar(GrammarKind.LARK, (text,))


def make_compiler(model_dir: Path, eos: Iterable[int] = (EOS,)) -> GrammarCompiler:
    return GrammarCompiler(model_dir, list(eos), VOCAB)


def accept(matcher: GrammarMatcher, text: str) -> GrammarMatcher:
    for byte in text.encode():
        matcher.accept(byte)
    return matcher


def allowed(*matchers: GrammarMatcher, vocab_size: int = VOCAB) -> list[set[int]]:
    """Return the tokens that may come next, for each matcher."""
    masks = MaskFiller(vocab_size).start(matchers).result(WITHIN_S)
    assert masks.shape == (len(matchers), -(-vocab_size // 32))
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in bits]


def follow(matcher: GrammarMatcher, text: str) -> GrammarMatcher:
    """Advance as a sequence does, with a mask before each token."""
    for byte in text.encode():
        allowed(matcher)
        matcher.accept(byte)
    return matcher


def letters(text: str) -> set[int]:
    return set(text.encode())
