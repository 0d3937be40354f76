"""Tool calls of DeepSeek.

V3 and R1 write `BEGIN function SEPARATOR name`, a line break and the arguments in a block of code (```json).
V3.1 writes `BEGIN name SEPARATOR {...} END`. Marks around all calls together are left out.
"""

import re

from router.edge.openai.parsing.headed_call import HeadedCall
from router.edge.openai.parsing.marked_calls import CallMarks, MarkedCalls

BEGIN, END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
AROUND = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
MARKS = CallMarks(BEGIN, END, leftover=" \t\r\n}`", around=AROUND)
_V3 = "function"  # the only type of tool, in place of the name
_HEAD = re.compile(rf"\s*([^\s<]+)\s*{SEPARATOR}\s*([^\s`<]+)?\s*(?:```\w*)?\s*(?:```\s*)?")


class DeepSeekCalls(MarkedCalls):
    """Finds such calls in a text."""

    def __init__(self) -> None:
        super().__init__(MARKS, lambda number: HeadedCall(number, _find_name, END))


def _find_name(head: str) -> str | None:
    found = _HEAD.fullmatch(head)
    if found is None or (found[2] and found[1] != _V3):
        return None
    return found[2] or found[1]
