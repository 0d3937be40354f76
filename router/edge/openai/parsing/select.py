"""The parser of a model's answers, chosen by what its chat template writes."""

from router.edge.openai.parsing import hermes, reasoning
from router.edge.openai.parsing.events import Parser
from router.edge.openai.parsing.forced import ForcedCalls
from router.edge.openai.parsing.hermes import HermesCalls
from router.edge.openai.parsing.json_calls import JsonCalls
from router.edge.openai.parsing.plain import PlainText
from router.intake.tokenizer import Tokenizer

_JSON_MARKS = ("<|python_tag|>", "[TOOL_CALLS]", '"parameters":')


def can_call(tokenizer: Tokenizer) -> bool:
    """Tell whether the model's template has a place for tools, and its calls are known here."""
    return tokenizer.template_mentions("tools") and _family(tokenizer) is not None


def make_parser(tokenizer: Tokenizer, prompt: str, *, has_tools: bool, is_forced: bool) -> Parser:
    """Return a new parser for one answer to a rendered prompt."""
    if is_forced:
        return ForcedCalls()
    family = _family(tokenizer) if has_tools else None
    rest = PlainText() if family is None else family()
    if tokenizer.template_mentions(reasoning.CLOSE):
        is_inside = prompt.rstrip().endswith(reasoning.OPEN)
        return reasoning.ReasoningParser(rest, is_inside=is_inside)
    return rest


def _family(tokenizer: Tokenizer) -> type[HermesCalls] | type[JsonCalls] | None:
    if tokenizer.template_mentions(hermes.OPEN):
        return HermesCalls
    if any(map(tokenizer.template_mentions, _JSON_MARKS)):
        return JsonCalls
    return None
