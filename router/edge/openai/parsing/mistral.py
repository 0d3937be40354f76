"""Tool calls of Mistral's models since 2025: [TOOL_CALLS]name[ARGS]{...}, one after the other.

Some put [CALL_ID] and an id before the arguments. The answer has ids of its own. Older models write a list
of JSON (json_calls.py).
"""

import re

from router.edge.openai.parsing.headed_call import HeadedCall
from router.edge.openai.parsing.marked_calls import CallMarks, MarkedCalls

BEGIN, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
MARKS = CallMarks(BEGIN, end=BEGIN, leftover=" \t\r\n}")  # the next call alone ends one
_HEAD = re.compile(r"\s*([^\s\[\]]+)\s*(?:\[CALL_ID\]\s*[\w-]*\s*)?\[ARGS\]\s*")


class MistralCalls(MarkedCalls):
    """Finds such calls in a text."""

    def __init__(self) -> None:
        super().__init__(MARKS, lambda number: HeadedCall(number, _find_name, BEGIN))


def _find_name(head: str) -> str | None:
    found = _HEAD.fullmatch(head)
    return None if found is None else found[1]
