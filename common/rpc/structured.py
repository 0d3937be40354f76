"""Between the public StructuredOutput and our Grammar."""

from common.messages import Grammar, GrammarKind
from pdserve.v1 import inference_pb2


def grammar_to_pb(grammar: Grammar | None) -> inference_pb2.StructuredOutput | None:
    """A grammar to its message; none stays none."""
    if grammar is None:
        return None
    message = inference_pb2.StructuredOutput(strict_formats=grammar.strict_formats)
    if grammar.kind is GrammarKind.CHOICE:
        message.choice.texts.extend(grammar.texts)
    else:
        setattr(message, grammar.kind, grammar.texts[0])
    return message


def grammar_from_pb(message: inference_pb2.StructuredOutput) -> Grammar | None:
    """The reverse; None when no form is set."""
    form = message.WhichOneof("form")
    if form is None:
        return None
    if form == "choice":
        return Grammar(GrammarKind.CHOICE, tuple(message.choice.texts), message.strict_formats)
    return Grammar(GrammarKind(form), (getattr(message, form),), message.strict_formats)
