"""Bad words as tokens, and the refusal of requests that forbid every token from the start."""

from collections.abc import Iterable

from common.messages import SamplingParams
from pdserve.errors import InvalidRequestError
from router.intake.tokenizer import Tokenizer


def tokenize_bad_words(
    words: Iterable[str], vocab_size: int, tokenizer: Tokenizer
) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each word as it stands and after a space (as vLLM has it), each once.

    Sequences with a token that the model does not have are left out, since they cannot come. Raises
    InvalidRequestError for a word that the tokenizer makes no token of.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip() or word
        for text in (bare, f" {bare}"):
            token_ids = tuple(tokenizer.encode_rendered(text))
            if not token_ids:
                message = f"the tokenizer makes no token of {word!r}"
                raise InvalidRequestError(message, field="sampling.bad_words")
            if max(token_ids) < vocab_size:
                found[token_ids] = None
    return tuple(found)


def check_first_token(
    sampling: SamplingParams, eos_token_ids: frozenset[int], vocab_size: int
) -> None:
    """Raise InvalidRequestError when no token may come first, whatever the grammar says."""
    if not sampling.has_bans:
        return
    forbidden = {word[0] for word in sampling.bad_words if len(word) == 1}
    if sampling.min_tokens:
        forbidden |= {t for t in sampling.ending_token_ids(eos_token_ids) if t < vocab_size}
    allowed = sampling.allowed_token_ids
    if not forbidden.issuperset(allowed) if allowed else len(forbidden) < vocab_size:
        return
    names = ("allowed_token_ids", "bad_words", "min_tokens")
    in_force = [name for name in names if getattr(sampling, name)]
    message = f"by {' and '.join(in_force)} no token may come first"
    raise InvalidRequestError(message, field=f"sampling.{in_force[0]}")
