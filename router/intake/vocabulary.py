"""Check for tokens that a tokenizer has and its model lacks, as after some fine-tunes."""

from collections.abc import Sequence

from pdserve.errors import InvalidRequestError, Reason
from router.intake.tokenizer import Tokenizer


def check_vocabulary(
    token_ids: Sequence[int], field: str, vocab_size: int, tokenizer: Tokenizer
) -> None:
    """Raise InvalidRequestError for the first token of a prompt that the model does not know."""
    # one loop in C: milliseconds for a hundred thousand
    if max(token_ids) < vocab_size:
        return
    token_id = next(token_id for token_id in token_ids if token_id >= vocab_size)
    text = tokenizer.text_of(token_id)
    known_as = f" ('{text}' of tokenizer.json)" if text is not None else ""
    raise InvalidRequestError(
        f"token {token_id}{known_as} is outside the model's vocabulary of {vocab_size}",
        reason=Reason.TOKEN_OUT_OF_VOCABULARY,
        field=field,
    )
