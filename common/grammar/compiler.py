"""Compiler from a grammar's text to an automaton over the model's tokens.

llguidance (Moskal et al., github.com/guidance-ai/llguidance) runs an Earley parser over regular-expression
derivatives, lazily: compiling takes about a millisecond and a mask some tens of microseconds. Fuel bounds
the work of a hostile grammar, here and later at each mask. It does not bound two cases, which the router
tries in a child process (child.py): some schema keywords compile for seconds, and deep nesting overflows
the stack.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from common.grammar.formats import drop_other_formats
from common.grammar.matcher import GrammarMatcher, one_line
from common.messages import Grammar, GrammarKind

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,  # 0.1 to 0.2 s at most
    step_lexer_fuel=50_000,  # some milliseconds a mask
    max_lexer_states=20_000,  # up to 2 kB each
    verbose_errors=False,  # messages go to clients
)
# A small model that may choose among any white space is soon writing nothing else.
_JSON_DEFAULTS: "JsonCompileOptions" = {"whitespace_pattern": "[ ]?"}
_TRIAL_TOKENS = 8


class GrammarError(ValueError):
    """Raised for a grammar that cannot be used; the message is one line for the client."""


class GrammarCompiler:
    """Compiler that holds the tokenizer in llguidance's form (some 60 MB, a quarter of a second to build)."""

    def __init__(
        self, model_dir: Path, eos_token_ids: Collection[int], min_vocab_size: int
    ) -> None:
        """Build the tokenizer; masks get `min_vocab_size` bits or more. Raises GrammarError."""
        try:
            text = (model_dir / "tokenizer.json").read_text("utf-8")
            self._tokenizer = _make_tokenizer(text, sorted(eos_token_ids), min_vocab_size)
        except (OSError, ValueError) as error:
            raise GrammarError(f"the model's tokenizer.json cannot be used: {error}") from error

    def compile(self, grammar: Grammar) -> GrammarMatcher:
        """Return a matcher at the start of the grammar, warm from its first mask. Raises GrammarError.

        Each sequence gets its own: copies of an llguidance matcher share one lexer, whose tables only grow. A
        sequence that exhausts them would end all others of its grammar.
        """
        try:
            source = _to_llguidance(grammar)
        except ValueError as error:
            raise GrammarError(one_line(str(error))) from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # where a lazy automaton finds that it is too large
        _check(matcher)
        return GrammarMatcher(matcher, self._tokenizer.vocab_size)


def try_out(matcher: GrammarMatcher) -> None:
    """Follow two texts of the grammar for some tokens: much is built only on the way. Raises GrammarError."""
    for pick in (0, -1):
        state = matcher.state.deep_copy()
        for _ in range(_TRIAL_TOKENS):
            mask = np.frombuffer(state.compute_bitmask(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
            _check(state)
            if state.is_stopped() or not len(allowed):
                break
            state.consume_token(int(allowed[pick]))
            _check(state)


def _check(state: LLMatcher) -> None:
    error = state.get_error()
    if error.startswith("NoExtension"):
        raise GrammarError("no text matches it")
    if error:
        raise GrammarError(one_line(error))


def _make_tokenizer(text: str, eos_token_ids: list[int], min_vocab_size: int) -> LLTokenizer:
    # for a model that names no end of its own, llguidance takes the likeliest token of the tokenizer
    eos = eos_token_ids or None
    try:
        return LLTokenizer(text, n_vocab=min_vocab_size, eos_token=eos)
    except ValueError:  # the tokenizer may know more tokens than the model has logits for
        return LLTokenizer(text, eos_token=eos)


def _to_llguidance(grammar: Grammar) -> str:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            schema = grammar.texts[0]
            schema = schema if grammar.strict_formats else drop_other_formats(schema)
            return LLMatcher.grammar_from_json_schema(schema, _JSON_DEFAULTS)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.texts[0])
        case GrammarKind.LARK:
            return LLMatcher.grammar_from_lark(grammar.texts[0])
        case GrammarKind.CHOICE:
            literals = " | ".join(json.dumps(text) for text in grammar.texts)
            return LLMatcher.grammar_from_lark(f"start: {literals}")
