"""Parsers of answers by name, and what comes of a text that they read in pieces."""

import json
from collections.abc import Callable, Sequence

from router.edge.openai.parsing.deepseek import DeepSeekCalls
from router.edge.openai.parsing.events import (
    CallArguments,
    CallStart,
    Content,
    Event,
    Parser,
    Reasoning,
)
from router.edge.openai.parsing.forced import ForcedCalls
from router.edge.openai.parsing.harmony import HarmonyParser
from router.edge.openai.parsing.hermes import HermesCalls
from router.edge.openai.parsing.json_calls import JsonCalls
from router.edge.openai.parsing.mistral import MistralCalls
from router.edge.openai.parsing.plain import PlainText
from router.edge.openai.parsing.reasoning import ReasoningParser

Outcome = tuple[str, str, list[tuple[str, str]]]  # thoughts, text, calls
WEATHER = {"city": 'Oslo } "x" \\', "days": [1, 2]}
ARGUMENTS = json.dumps(WEATHER)
CALL = json.dumps({"name": "weather", "arguments": WEATHER})
FORCED = json.dumps([{"name": "a", "arguments": WEATHER}, {"name": "b", "arguments": {}}])
V3 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>\n"
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n```json\n{}\n```<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>"
)
V31 = (
    "Look:\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>stop<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
HARMONY = (
    "<|channel|>analysis<|message|>hm<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    f"{ARGUMENTS}<|call|>"
    "<|start|>assistant<|channel|>final<|message|>Done.<|return|>"
)
HARMONY_PROMPT = "<|start|>user<|message|>hi<|end|><|start|>assistant"
MAKERS: dict[str, Callable[[], Parser]] = {
    "plain": PlainText,
    "hermes": HermesCalls,
    "json": JsonCalls,
    "forced": ForcedCalls,
    "deepseek": DeepSeekCalls,
    "mistral": MistralCalls,
    "harmony": lambda: HarmonyParser(HARMONY_PROMPT, has_tools=True),
    "thinking": lambda: ReasoningParser(HermesCalls(), is_inside=False),
    "inside": lambda: ReasoningParser(HermesCalls(), is_inside=True),
}


def joined(events: Sequence[Event]) -> Outcome:
    """Return the thoughts, text and calls that all events make."""
    thoughts = "".join(e.text for e in events if isinstance(e, Reasoning))
    text = "".join(e.text for e in events if isinstance(e, Content))
    names = {e.number: e.name for e in events if isinstance(e, CallStart)}
    arguments = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, CallArguments):
            arguments[event.number] += event.text
    return thoughts, text, [(names[number], arguments[number]) for number in names]


def read(parser: Parser, pieces: Sequence[str]) -> Outcome:
    """The outcome of a text that comes in pieces."""
    events = [event for piece in pieces for event in parser.push(piece)]
    return joined([*events, *parser.finish()])
