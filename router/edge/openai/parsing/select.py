"""The parser of a model's answers, chosen by what its chat template writes."""

from collections.abc import Callable
from dataclasses import dataclass

from router.edge.openai.parsing import (
    deepseek,
    harmony,
    hermes,
    json_calls,
    mistral,
    reasoning,
)
from router.edge.openai.parsing.events import Parser
from router.edge.openai.parsing.forced import ForcedCalls
from router.edge.openai.parsing.plain import PlainText
from router.intake.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Family:
    """Models that write calls in one form."""

    signs: tuple[str, ...]  # texts of their chat templates, each of which tells them
    marks: tuple[str, ...]  # texts in answers that the parser looks for
    make: Callable[[], Parser]


# the first that fits counts
_FAMILIES = (
    Family(
        signs=(deepseek.BEGIN,),
        marks=(deepseek.BEGIN, deepseek.END, deepseek.SEPARATOR, *deepseek.AROUND),
        make=deepseek.DeepSeekCalls,
    ),
    Family(
        signs=(mistral.ARGS,),
        marks=(mistral.BEGIN, mistral.CALL_ID, mistral.ARGS),
        make=mistral.MistralCalls,
    ),
    Family(signs=(hermes.OPEN,), marks=(hermes.OPEN, hermes.CLOSE), make=hermes.HermesCalls),
    Family(
        signs=(*json_calls.MARKS, '"parameters":'),
        marks=json_calls.MARKS,
        make=json_calls.JsonCalls,
    ),
)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The form of a model's answers: its marks, and what makes a parser for one rendered prompt."""

    marks: frozenset[str]
    make_parser: Callable[[str], Parser]


def can_call(tokenizer: Tokenizer) -> bool:
    """Tell whether the model's template has a place for tools, and its calls are known here."""
    is_known = _is_harmony(tokenizer) or _family(tokenizer) is not None
    return is_known and tokenizer.template_mentions("tools")


def answer_form(tokenizer: Tokenizer, *, has_tools: bool, is_forced: bool) -> AnswerForm:
    """Return the form of the model's answers to one request."""
    if is_forced:
        return AnswerForm(frozenset(), lambda _: ForcedCalls())
    if _is_harmony(tokenizer):

        def make_harmony(prompt: str) -> Parser:
            return harmony.HarmonyParser(prompt, has_tools=has_tools)

        return AnswerForm(frozenset(harmony.MARKS), make_harmony)
    family = _family(tokenizer) if has_tools else None
    marks, make = (family.marks, family.make) if family else ((), PlainText)
    if not tokenizer.template_mentions(reasoning.CLOSE):
        return AnswerForm(frozenset(marks), lambda _: make())

    def make_thinking(prompt: str) -> Parser:
        is_inside = prompt.rstrip().endswith(reasoning.OPEN)
        return reasoning.ReasoningParser(make(), is_inside=is_inside)

    return AnswerForm(frozenset((*marks, reasoning.OPEN, reasoning.CLOSE)), make_thinking)


def _is_harmony(tokenizer: Tokenizer) -> bool:
    return all(map(tokenizer.template_mentions, (harmony.CHANNEL, harmony.MESSAGE)))


def _family(tokenizer: Tokenizer) -> Family | None:
    fitting = (f for f in _FAMILIES if any(map(tokenizer.template_mentions, f.signs)))
    return next(fitting, None)
