"""Tool calls of Hermes, Qwen and SmolLM3: <tool_call>{"name": ..., "arguments": ...}</tool_call>."""

from router.edge.openai.parsing.json_call import JsonCall
from router.edge.openai.parsing.marked_calls import CallMarks, MarkedCalls

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKS = CallMarks(OPEN, CLOSE, leftover=" \t\r\n}")


class HermesCalls(MarkedCalls):
    """Finds such calls in a text."""

    def __init__(self) -> None:
        super().__init__(MARKS, JsonCall)
