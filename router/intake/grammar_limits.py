"""Limits of a grammar that are checked before it is compiled."""

from common.messages import Grammar, GrammarKind
from common.rpc.convert_sampling import grammar_from_pb
from pdserve.errors import InvalidRequestError
from pdserve.v1 import inference_pb2

MAX_BYTES = 128 * 1024
MAX_CHOICES = 1024
_FIELD = "sampling.structured_output"


def parse_grammar(sampling: inference_pb2.SamplingParams) -> Grammar | None:
    """Return the grammar of a request, if it has one. Raises InvalidRequestError for one too large."""
    if not sampling.HasField("structured_output"):
        return None
    grammar = grammar_from_pb(sampling.structured_output)
    if grammar is None:
        raise InvalidRequestError("none of its forms is set", field=_FIELD)
    field = f"{_FIELD}.{grammar.kind}"
    if grammar.kind is GrammarKind.CHOICE and not 1 <= len(grammar.texts) <= MAX_CHOICES:
        raise InvalidRequestError(f"needs 1 to {MAX_CHOICES} texts", field=field)
    if not all(grammar.texts):
        raise InvalidRequestError("must not be empty", field=field)
    num_bytes = sum(len(text.encode()) for text in grammar.texts)
    if num_bytes > MAX_BYTES:
        raise InvalidRequestError(f"{num_bytes} bytes exceed {MAX_BYTES}", field=field)
    if grammar.strict_formats and grammar.kind is not GrammarKind.JSON_SCHEMA:
        raise InvalidRequestError("goes with json_schema only", field=f"{_FIELD}.strict_formats")
    if sampling.ignore_eos:
        raise InvalidRequestError(
            "a structured output ends where its form does", field="sampling.ignore_eos"
        )
    return grammar
