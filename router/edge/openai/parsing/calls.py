"""From a call that a model wrote as JSON to its events."""

import json

from router.edge.openai.parsing.events import CallArguments, CallStart, Event, make_call_id


def call_events(call: object, number: int) -> list[Event] | None:
    """Return the events of `{"name": ..., "arguments" or "parameters": ...}`; None for anything else."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return [CallStart(number, make_call_id(), call["name"]), CallArguments(number, arguments)]
